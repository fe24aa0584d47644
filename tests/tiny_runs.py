"""Tiny real runs: a small synthetic dataset and a model that does a step in some 50 ms."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil
import pytest
import torch
from forked import Forked

from sdpose.config import Experiment, dump_experiment, load_experiment
from sdpose.tools.synthetic.dataset import write_synthetic_coco

# 64 images with some 80 persons: 11 iterations of 8 an epoch.
TINY = """
exp_name: tiny
model:
  backbone: {width: 4, num_blocks: 1}
  keypoint_head:
    tokenpose_cfg: {patch_size: [4, 4], dim: 16, depth: 1, heads: 2}
    loss_vis_token_dist: {type: MaskedTokenDistilLoss, loss_weight: 1e-3, mask_ratio: 0.3}
data_cfg: {image_size: [48, 64], heatmap_size: [12, 16], sigma: 1.0, use_gt_bbox: true}
data: {samples_per_gpu: 8, workers_per_gpu: 0}
optimizer_config: {grad_clip: {max_norm: 1.0}}
lr_config: {policy: step, step: [2], warmup_iters: 8}
total_epochs: 3
checkpoint_config: {interval: 1}
evaluation: {interval: 2}
log_config: {interval: 1, hooks: [TextLoggerHook]}
"""

MakeExperiment = Callable[..., Experiment]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Bits depend on the number of threads; the subprocesses run with one, too."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic")
    write_synthetic_coco(folder, num_train=64, num_val=6, seed=0)
    return folder


@pytest.fixture
def make(tmp_path: Path, dataset: Path) -> MakeExperiment:
    """make("key=value", ..., work_dir="a"): the tiny experiment with changes."""
    (tmp_path / "tiny.yaml").write_text(TINY)

    def build(*changes: str, work_dir: str = "run") -> Experiment:
        places = (f"data_root={dataset}", f"work_dir={tmp_path / work_dir}")
        return load_experiment(tmp_path / "tiny.yaml", (*places, *changes))

    return build


class Launched:
    """A training in processes of their own, with its output in a file."""

    def __init__(
        self,
        experiment: Experiment,
        ranks: int,
        launcher: str,
        environment: Mapping[str, str],
        pause: float,
        resume_from: str,
        work_dir: str,
    ) -> None:
        assert experiment.work_dir is not None
        self.work_dir = Path(experiment.work_dir)
        folder = self.work_dir.parent
        document = folder / f"{self.work_dir.name}.yaml"
        if work_dir:
            experiment = experiment.model_copy(update={"work_dir": work_dir})
        document.write_text(dump_experiment(experiment))
        self.output = folder / f"{self.work_dir.name}.out"
        command = ["train", str(document), *["--resume-from", resume_from] * bool(resume_from)]
        port = _free_port()
        if launcher:
            program, _, options = launcher.partition(" ")
            options += f" --nproc-per-node {ranks} --master-port {port}"
            starts = {
                "launch": ["sdpose", "launch", *options.split(), "--"],
                "torchrun": ["torch.distributed.run", *options.split(), "-m", "sdpose"],
            }
            with self.output.open("a") as output:
                started = psutil.Popen(
                    [sys.executable, "-m", *starts[program], *command],
                    cwd=folder,
                    env=os.environ
                    | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
                    | dict(environment),
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self.processes = [started]
            return
        self.output.touch()
        shared = {
            **environment,
            "WORLD_SIZE": ranks,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        self.processes = [
            Forked(command, folder, self.output, {**shared, "RANK": r, "LOCAL_RANK": r}, pause)
            for r in range(ranks)
        ]

    def text(self) -> str:
        return self.output.read_text()

    def wait_for(self, text: str, seconds: float = 120, *, after: int = 0, times: int = 1) -> None:
        """Until the output, but for its first `after` characters, has the text so many times."""
        end = time.monotonic() + seconds
        while self.text()[after:].count(text) < times:
            for process in self.processes:
                assert process.status() != psutil.STATUS_ZOMBIE, f"ended: {self.text()[-3000:]}"
            assert time.monotonic() < end, f"no {text!r} in: {self.text()[-3000:]}"
            time.sleep(0.01)

    def signal(self, number: int) -> None:
        for process in self.processes:
            process.send_signal(number)

    def wait(self, seconds: float = 120) -> int:
        """The exit code, the same for all ranks."""
        (code,) = {process.wait(seconds) for process in self.processes}
        assert code is not None
        return code


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def launch() -> Iterator[Callable[..., Launched]]:
    """launch(experiment): `sdpose train`; with ranks=N as any launcher starts it (RANK, ... in the
    environment), with launcher="launch OPTIONS" by `sdpose launch`, with "torchrun OPTIONS" by
    torch's. Without a launcher it sleeps after every step, so that it is not over before a test has
    seen where it is. resume_from: as --resume-from. work_dir: instead of the experiment's, in a
    store."""
    started: list[Launched] = []

    def start(
        experiment: Experiment,
        ranks: int = 1,
        launcher: str = "",
        environment: Mapping[str, str] = MappingProxyType({}),
        pause: float = 0.03,
        resume_from: str = "",
        work_dir: str = "",
    ) -> Launched:
        started.append(
            Launched(experiment, ranks, launcher, environment, pause, resume_from, work_dir)
        )
        return started[-1]

    yield start
    for launched in started:
        for process in launched.processes:
            if process.is_running():
                process.kill()


@pytest.fixture
def records() -> Callable[[str | Path], list[dict[str, Any]]]:
    """records(work_dir): the lines of all its .log.json files, without the headings."""

    def read(work_dir: str | Path) -> list[dict[str, Any]]:
        lines = [
            json.loads(line)
            for path in sorted(Path(work_dir).glob("*.log.json"))
            for line in path.read_text().splitlines()
        ]
        return [line for line in lines if "mode" in line]

    return read


@pytest.fixture
def assert_same_weights() -> Callable[[Path, Path], None]:
    """Bit for bit: weights, optimizer, and what was counted."""

    def check(left: Path, right: Path) -> None:
        a, b = (torch.load(path, weights_only=True) for path in (left, right))
        for name, tensor in a["state_dict"].items():
            assert torch.equal(tensor, b["state_dict"][name]), name
        for index, state in a["optimizer"]["state"].items():
            for name, tensor in state.items():
                assert torch.equal(tensor, b["optimizer"]["state"][index][name]), name
        for name in ("epoch", "iteration", "metrics", "best_epoch", "sums"):
            assert a["meta"][name] == b["meta"][name], name

    return check
