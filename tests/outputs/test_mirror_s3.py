"""A mirror at an S3 endpoint that is stopped, slowed and answers 500 while a run needs it."""

from __future__ import annotations

import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.proxy import Answer, Delay, FaultProxy

from sdpose.cli import main
from sdpose.config import dump_experiment
from sdpose.outputs import mirror
from sdpose.outputs import saver as saving
from sdpose.runner.train import train
from sdpose.storage import Store, open_store
from sdpose.training.checkpoint import load_checkpoint

SAVED_OFTEN = "checkpoint_config.interval_minutes=1e-3"
# So that an outage is told in seconds; the mirror tries again whatever it is.
TRIES = {"AWS_MAX_ATTEMPTS": "2"}


@pytest.fixture
def proxy(moto) -> Iterator[FaultProxy]:
    with FaultProxy.to(moto.url) as proxy:
        yield proxy


@pytest.fixture
def bucket(moto, monkeypatch) -> Store:
    """A bucket, reached without the proxy."""
    for name, value in moto.environment().items():
        monkeypatch.setenv(name, value)
    return open_store(f"s3://{moto.new_bucket()}/runs")


def checkpoints(names) -> set[str]:
    return {name for name in names if name.endswith(".pth")}


def test_machines_and_endpoints_fail_in_turn(
    make, launch, moto, proxy, bucket, tmp_path: Path, assert_same_weights
) -> None:
    """Three machines, each of which begins with an empty disk."""
    common = (SAVED_OFTEN, "total_epochs=8", "checkpoint_config.max_keep_ckpts=2")
    undisturbed = train(make(*common, work_dir="undisturbed"))
    experiment = make(*common, f"checkpoint_config.mirror={bucket.uri('x')[:-2]}")
    experiment = experiment.model_copy(update={"resume_from": "auto"})
    work_dir = Path(str(experiment.work_dir))
    environment = {**moto.environment(proxy.url), **TRIES}

    # The endpoint answers 500, then is gone; a SIGTERM is obeyed all the same.
    first = launch(experiment, environment=environment, pause=0.2)
    first.wait_for("Epoch [2][2/")
    proxy.plan = lambda request: Answer(500)
    first.wait_for("warning: no upload to s3://")
    proxy.down = True
    first.wait_for("Epoch [", after=len(first.text()), times=3)
    first.signal(signal.SIGTERM)
    assert first.wait() == 128 + signal.SIGTERM, first.text()
    assert "not uploaded: s3://" in first.text()
    shutil.rmtree(work_dir)

    # A machine that cannot look there does not start from the beginning.
    said = len(first.text())
    blind = launch(experiment, environment=environment)
    assert blind.wait() == 2
    assert "It may hold a newer checkpoint" in blind.text()[said:]

    # Slow; then requests hang while the steps go on.
    proxy.reset()
    proxy.down = False
    proxy.plan = lambda request: Delay(0.2)
    said = len(blind.text())
    second = launch(experiment, environment=environment, pause=0.2)
    second.wait_for("Epoch [3][", after=said)
    assert f"fetched {bucket.uri('run/latest.pth')}" in second.text()[said:]
    hang, begun = threading.Event(), threading.Event()

    def hanging(_: object) -> None:
        begun.set()
        hang.wait(120)

    proxy.plan = hanging
    assert begun.wait(60)
    second.wait_for("Epoch [", after=len(second.text()), times=5)
    second.signal(signal.SIGKILL)
    second.wait()
    hang.set()
    shutil.rmtree(work_dir)

    # Every fifth request fails.
    proxy.reset()
    proxy.plan = lambda request: Answer(500) if request.number % 5 == 0 else None
    said = len(second.text())
    third = launch(experiment, environment=moto.environment(proxy.url))
    assert third.wait() == 0, third.text()[said:]
    assert f"fetched {bucket.uri('run/latest.pth')}" in third.text()[said:]
    assert "warning: no upload" not in third.text()[said:]
    assert_same_weights(undisturbed.last_checkpoint, work_dir / "epoch_8.pth")

    kept = checkpoints(key.removeprefix("run/") for key in bucket.list("run"))
    assert kept == checkpoints(path.name for path in undisturbed.last_checkpoint.parent.iterdir())
    for name in kept:
        bucket.get_file(f"run/{name}", tmp_path / "fetched" / name)
        load_checkpoint(tmp_path / "fetched" / name)
    assert [path.name for path in work_dir.iterdir() if path.name.startswith(".")] == []


def test_a_work_dir_in_a_bucket(make, bucket, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    place = f"work_dir={bucket.uri('tiny')}"
    train(make("total_epochs=1", place))
    assert checkpoints(key.removeprefix("tiny/") for key in bucket.list("tiny")) == {
        "latest.pth",
        "epoch_1.pth",
        "best_AP_epoch_1.pth",
    }
    shutil.rmtree("work_dirs")
    capsys.readouterr()
    # As in a pod, whose working folder is read-only.
    monkeypatch.setenv("SDPOSE_SCRATCH", str(tmp_path / "scratch"))
    result = train(make("total_epochs=2", "resume_from=auto", place))
    assert result.last_checkpoint.is_relative_to(tmp_path / "scratch")
    assert not Path("work_dirs").exists()
    assert f"fetched {bucket.uri('tiny/latest.pth')}" in capsys.readouterr().out
    assert bucket.read("tiny/epoch_2.pth") == result.last_checkpoint.read_bytes()


def test_a_promise_that_the_bucket_breaks_is_an_exit_code(
    make, moto, proxy, bucket, tmp_path: Path, monkeypatch, capsys
) -> None:
    """The endpoint goes away in the last epoch and stays away; the same command completes later."""
    monkeypatch.setattr(saving, "PATIENCE_SECONDS", 8.0)
    monkeypatch.setattr(mirror, "RETRY_SECONDS", 0.2)
    for name, value in {**moto.environment(proxy.url), **TRIES}.items():
        monkeypatch.setenv(name, value)
    experiment = make("total_epochs=2", f"checkpoint_config.mirror={bucket.uri('x')[:-2]}")
    (tmp_path / "run.yaml").write_text(dump_experiment(experiment))
    monkeypatch.setattr(sys, "argv", ["sdpose", "train", str(tmp_path / "run.yaml")])
    proxy.plan = lambda request: Answer(500) if "epoch_2.pth" in request.path else None

    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    output = capsys.readouterr()
    assert "could not keep what it promised" in output.err
    assert bucket.uri("run/epoch_2.pth") in output.err
    assert "epoch_1.pth" in checkpoints(key.removeprefix("run/") for key in bucket.list("run"))

    proxy.reset()
    monkeypatch.setattr(saving, "PATIENCE_SECONDS", 100.0)
    main()
    assert "nothing to train" in capsys.readouterr().out
    kept = checkpoints(key.removeprefix("run/") for key in bucket.list("run"))
    assert kept == checkpoints(path.name for path in Path(str(experiment.work_dir)).iterdir())
