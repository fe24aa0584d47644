"""A run of two processes that is killed again and again, against one that was left alone.

`make chaos` is the long form. The moments come from $CHAOS_SEED (steps, and a part of a second);
what the kernel schedules between them does not. The eight kills of the default seed are enough for
each signal to come while the processes start, to hit one process alone, and to lose the disk.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import pytest

from sdpose.errors import PEER_LOST_EXIT_CODE

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("CHAOS_KILLS", "8"))
SEED = int(os.environ.get("CHAOS_SEED", "20"))
RANKS = 2
MOST_STEPS = 7
STEPS_MORE = 8  # until the kill comes
START_SECONDS = 0.6  # of a fork (forked.py), to its first step
# What distributed.py, interrupt.py and launch.py promise.
ENDS_WITHIN_SECONDS = 30.0


@dataclass(frozen=True)
class Kill:
    number: signal.Signals
    ranks: tuple[int, ...]
    steps: int  # done since the start; 0: while the processes start
    seconds: float  # after that
    disk_is_lost: bool
    workers: int  # loader processes of each rank


def draw_kills(count: int, seed: int) -> Iterator[Kill]:
    """SIGTERM and SIGKILL alternate; half of them hit one process alone."""
    draw = random.Random(seed)
    for index in range(count):
        number = (signal.SIGKILL, signal.SIGTERM)[index % 2]
        starting = draw.random() < 0.15
        alone = not starting and draw.random() < 0.5
        yield Kill(
            number=number,
            ranks=(draw.randrange(RANKS),) if alone else tuple(range(RANKS)),
            steps=0 if starting else draw.randint(1, MOST_STEPS),
            seconds=draw.uniform(0.0, START_SECONDS if starting else 0.3),
            disk_is_lost=not alone and draw.random() < 0.3,
            workers=draw.randint(0, 1),
        )


@pytest.mark.timeout(300 + 30 * KILLS)
def test_chaos(make, launch, records, assert_same_weights, tmp_path: Path) -> None:
    kills = list(draw_kills(KILLS, SEED))
    # 11 steps each; enough that it does not end before the last kill, even if no step is lost.
    epochs = 3 + sum(kill.steps + STEPS_MORE for kill in kills) // 11
    common = (
        f"total_epochs={epochs}",
        "data.samples_per_gpu=4",
        "evaluation.interval=1",
        "checkpoint_config.interval_minutes=0.002",
        "checkpoint_config.max_keep_ckpts=2",
    )
    (temporary := tmp_path / "tmp").mkdir()
    start = partial(launch, ranks=RANKS, environment={"TMPDIR": temporary}, pause=0.0)
    undisturbed = start(make(*common, work_dir="undisturbed"))
    assert undisturbed.wait(300) == 0, undisturbed.text()
    print(f"CHAOS_SEED={SEED} CHAOS_KILLS={KILLS}: {epochs} epochs")

    mirror = f"checkpoint_config.mirror={tmp_path / 'mirror'}"
    said = 0
    for kill in kills:
        workers = f"data.workers_per_gpu={kill.workers}"
        run = start(make(*common, mirror, workers, work_dir="killed"))
        run.wait_for("Epoch [", after=said, times=kill.steps)
        time.sleep(kill.seconds)
        for rank in kill.ranks:
            run.processes[rank].send_signal(kill.number)
        asked = time.monotonic()
        codes = [process.wait(ENDS_WITHIN_SECONDS) for process in run.processes]
        print(kill, "ended with", codes, f"after {time.monotonic() - asked:.1f} s")
        text, said = run.text()[said:], len(run.text())
        assert set(codes) <= expected_codes(kill), text
        if kill.disk_is_lost:
            shutil.rmtree(run.work_dir, ignore_errors=True)
    run = start(make(*common, mirror, work_dir="killed"))
    assert run.wait(300) == 0, run.text()

    last = f"epoch_{epochs}.pth"
    assert_same_weights(undisturbed.work_dir / last, run.work_dir / last)
    expected = {step_of(line): line for line in records(undisturbed.work_dir)}
    actual = records(run.work_dir)
    for line in actual:
        for name in ("loss", "AP"):
            assert line.get(name) == expected[step_of(line)].get(name), line

    assert checkpoints(tmp_path / "mirror/killed") == checkpoints(undisturbed.work_dir)
    assert checkpoints(run.work_dir) <= checkpoints(undisturbed.work_dir)  # a new disk has fewer
    assert left_behind(tmp_path) == []


def expected_codes(kill: Kill) -> set[int]:
    if kill.number == signal.SIGKILL:
        return {-signal.SIGKILL, PEER_LOST_EXIT_CODE}
    asked = {128 + signal.SIGTERM, PEER_LOST_EXIT_CODE}
    return asked if kill.steps else asked | {-signal.SIGTERM}  # before Python can handle it


def step_of(line: dict) -> tuple:
    return line["mode"], line["epoch"], line.get("iter")


def checkpoints(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.pth")}


def left_behind(folder: Path) -> list[str]:
    """Processes that work below the folder, and files that only a writer has a use for."""
    processes = [
        str(process)
        for process in psutil.process_iter(["cwd", "cmdline"])
        if Path(process.info["cwd"] or "/").is_relative_to(folder)
    ]
    files = [
        str(path)
        for path in folder.rglob("*")
        if (path.parent == folder / "tmp" and "torchinductor" not in path.name)  # torch's cache
        or path.name.endswith((".tmp", ".part"))
        or path.name.startswith(".new-")
    ]
    return processes + files
