"""How far a run has come, as it is seen from outside: on its volume, in its mirror, in the status
of its TrainJob."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.trainer_status import StatusServer

from sdpose.config import Experiment
from sdpose.errors import UserError
from sdpose.outputs import mirror, trainjob_status
from sdpose.outputs import run_progress as progress
from sdpose.outputs.lease import Lease
from sdpose.outputs.mirror import Mirror
from sdpose.outputs.run_progress import RunProgress, read_progress
from sdpose.outputs.trainjob_status import TrainJobStatus
from sdpose.runner.train import train
from sdpose.storage import Store, open_store
from tests.shipped import CRDS

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StatusServer]:
    """Trainer's endpoint, and this process a pod that reports to it, as fast as it can."""
    crds = [CRDS / f"trainer-v{v}" / "trainjobs.yaml" for v in ("2.2.0", "2.3.0")]
    (tmp_path / "pod").mkdir()
    server = StatusServer(tmp_path / "pod", crds)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(trainjob_status, "INTERVAL_SECONDS", 0.0)
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()


def until(condition, timeout: float = 100):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError("it did not happen in time")


def read(experiment: Experiment) -> RunProgress:
    found = read_progress(experiment)
    assert found is not None
    return found


# --------------------------------------------------------------------------- the work dir's record


def test_a_run_says_how_far_it_is_and_how_it_ended(make, launch) -> None:
    experiment = make("total_epochs=8", "checkpoint_config.interval=1", "evaluation.interval=1")
    assert read_progress(experiment) is None
    first = launch(experiment, pause=0.2)
    begun = until(lambda: read_progress(experiment))
    assert (begun.status, begun.epoch, begun.total_epochs, begun.AP) == ("RUNNING", 1, 8, None)
    assert begun.percent <= 12
    first.wait_for("Epoch [2][2/")
    first.signal(signal.SIGTERM)
    assert first.wait(60) == 128 + signal.SIGTERM, first.text()
    stopped = read(experiment)
    assert (stopped.status, stopped.epoch, stopped.seconds_left) == ("KILLED", 2, None)
    assert 12 <= stopped.percent < 25
    assert stopped.AP is not None
    assert str(stopped).endswith(f"AP {stopped.AP:.3f}, stopped")

    again = launch(experiment, pause=0)
    going_on = until(lambda: read(experiment).status != "KILLED" and read(experiment))
    assert going_on.percent >= stopped.percent
    assert going_on.AP is not None, "of the part before"
    assert again.wait() == 0, again.text()
    ended = read(experiment)
    assert (ended.status, ended.percent, ended.epoch, ended.seconds_left) == ("FINISHED", 100, 8, 0)
    assert str(ended).endswith("finished")


def test_a_run_that_fails_says_so(make, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = make("on_divergence=stop", "optimizer={type: SGD, lr: 1e12}", "total_epochs=9")
    with pytest.raises(UserError, match="diverged"):
        train(experiment)
    assert read(experiment).status == "FAILED"
    assert str(read(experiment)).endswith("failed")


def test_a_record_that_cannot_be_written_costs_nothing(make) -> None:
    experiment = make("total_epochs=1")
    (Path(experiment.work_dir) / "progress.json" / "in the way").mkdir(parents=True)
    assert train(experiment).epochs == 1
    with pytest.raises(UserError, match=r"cannot read .*progress\.json: Is a directory"):
        read_progress(experiment)


@pytest.mark.parametrize("document", ["", "{}", '{"time": "now"', "[]"])
def test_a_damaged_record_is_named_and_replaced(document: str, make) -> None:
    experiment = make("total_epochs=1")
    path = Path(experiment.work_dir) / "progress.json"
    path.parent.mkdir()
    path.write_text(document)
    with pytest.raises(UserError, match=rf"{path} is damaged: "):
        read_progress(experiment)
    train(experiment)
    assert read(experiment).status == "FINISHED"


def test_records_of_newer_versions_can_be_read(make) -> None:
    experiment = make("total_epochs=1")
    train(experiment)
    path = Path(experiment.work_dir) / "progress.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"new": [1]}))
    assert read(experiment).percent == 100


def test_overwrite_removes_the_record(make, launch) -> None:
    train(make("total_epochs=1"))
    other = make("total_epochs=50")
    run = launch(make("total_epochs=50", work_dir="run"), pause=0.2)
    assert run.wait() == 2, "another experiment's results"
    assert read(other).status == "FINISHED"
    train(make("total_epochs=2"), overwrite=True)
    assert read(other).total_epochs == 2


# -------------------------------------------------------------------------------------- the mirror


@pytest.mark.parametrize("place", ["mirror", "work_dir"])
def test_it_is_read_from_s3(
    place: str, make, moto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a machine that does not see the disk of the one that trained."""
    for name, value in moto.environment().items():
        monkeypatch.setenv(name, value)
    uri = f"s3://{moto.new_bucket()}/runs"
    monkeypatch.chdir(tmp_path)
    experiment = make("total_epochs=1", f"checkpoint_config.mirror={uri}")
    if place == "work_dir":
        settings = experiment.checkpoint_config.model_copy(update={"mirror": None})
        changes = {"work_dir": f"{uri}/run", "checkpoint_config": settings}
        experiment = experiment.model_copy(update=changes)
    assert read_progress(experiment) is None
    train(experiment)
    monkeypatch.chdir("/")
    elsewhere = {} if place == "work_dir" else {"work_dir": "/nowhere/run"}
    assert read(experiment.model_copy(update=elsewhere)).status == "FINISHED"


def test_the_mirror_has_it_between_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "LIVE_SECONDS", 0.05)
    work_dir = tmp_path / "run"
    work_dir.mkdir()
    store = open_store(tmp_path / "mirror")
    with Lease(store).held() as lease:
        _uploads_between_checkpoints(work_dir, store, lease)


def _uploads_between_checkpoints(work_dir: Path, store: Store, lease: Lease) -> None:
    uploads = Mirror(
        store,
        lease,
        work_dir=work_dir,
        folder=work_dir,
        own_files=("*.log", "progress.json"),
        live_files=("progress.json",),
        keep=1,
    )
    (work_dir / "a.log").write_text("grows all the time")
    for text in ("1", "22"):
        (work_dir / "progress.json").write_text(text)
        until(
            lambda text=text: (
                store.exists("progress.json") and store.read("progress.json") == text.encode()
            )
        )
    assert list(store.list("")) == ["lease.json", "progress.json"], "logs go with the checkpoints"
    uploads.close(10)
    assert list(store.list("")) == ["a.log", "lease.json", "progress.json"]


# --------------------------------------------------------------------------- the TrainJob's status


def test_a_training_sets_the_status_of_its_trainjob(make, server: StatusServer, capsys) -> None:
    """Its token is replaced in the middle."""
    answered = server.statuses.append

    class Rotating(list):
        def append(self, status) -> None:
            answered(status)
            super().append(status)
            if len(self) == 3:
                server.rotate_token()

    server.statuses = Rotating()
    train(make("total_epochs=4", "evaluation.interval=2"))
    statuses = list(server.statuses)
    percents = [status["progressPercentage"] for status in statuses]
    assert len(statuses) > 5
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert max(percents[:-1]) <= 99
    assert statuses[-1]["estimatedRemainingSeconds"] == 0
    metrics = {metric["name"]: metric["value"] for metric in statuses[-1]["metrics"]}
    assert set(metrics) == {"loss", "AP", "currentEpoch", "totalEpochs"}
    assert (metrics["currentEpoch"], metrics["totalEpochs"]) == ("4", "4")
    assert 0 < float(metrics["loss"]) < 1
    assert [code for code, _ in server.refusals if code != 403] == [], server.refusals
    assert "status" not in capsys.readouterr().err


def test_a_run_that_was_finished_before_is_reported_as_such(
    make, server: StatusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(make("total_epochs=1"))
    before = len(server.statuses)
    train(make("total_epochs=1"))
    assert [s["progressPercentage"] for s in server.statuses[before:]] == [100]


def test_a_server_that_hangs_does_not_hold_training_up(
    make, server: StatusServer, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """The whole training, and its end, while the first request is not answered."""
    monkeypatch.setattr(trainjob_status, "TIMEOUT_SECONDS", 3600.0)
    monkeypatch.setattr(progress, "CLOSE_SECONDS", 0.1)
    server.answer = "hang"
    experiment = make("total_epochs=2")
    assert train(experiment).epochs == 2
    assert not server.release.is_set()
    assert server.requests == 1
    assert read(experiment).status == "FINISHED"
    assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize("trouble", ["500", "no server", "another CA", "no token", "no CA"])
def test_a_status_that_cannot_be_set_is_not_mentioned(
    trouble: str,
    make,
    server: StatusServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys,
) -> None:
    monkeypatch.setattr(progress, "CLOSE_SECONDS", 0.1)
    if trouble == "500":
        server.answer = "500"
    elif trouble == "no server":
        monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", "https://127.0.0.1:9/status")
    elif trouble == "another CA":
        (tmp_path / "other").mkdir()
        other = StatusServer(tmp_path / "other", [])
        other.shutdown()
        other.server_close()
        monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_CA_CERT", str(other.ca_file))
    else:
        name = "TOKEN" if trouble == "no token" else "CA_CERT"
        monkeypatch.setenv(f"KUBEFLOW_TRAINER_SERVER_{name}", "/nowhere")
    assert train(make("total_epochs=1")).epochs == 1
    output = capsys.readouterr()
    assert "warning" not in output.out + output.err
    assert "Traceback" not in output.out + output.err
    assert server.statuses == []


def test_after_failures_it_is_tried_again_and_the_last_record_is_posted(
    server: StatusServer,
) -> None:
    server.answer = "500"
    status = TrainJobStatus.from_environment()
    assert status is not None
    now = "2026-11-30T05:31:00Z"
    status.report(RunProgress(now, "RUNNING", 10, 1, 10, 100, 0.5))
    until(lambda: server.requests)
    server.answer = ""
    status.close(RunProgress(now, "FINISHED", 100, 10, 10, 0, 0.25, 0.75), 60)
    assert server.statuses[-1] == {
        "progressPercentage": 100,
        "estimatedRemainingSeconds": 0,
        "metrics": [
            {"name": "loss", "value": "0.25"},
            {"name": "AP", "value": "0.75"},
            {"name": "currentEpoch", "value": "10"},
            {"name": "totalEpochs", "value": "10"},
        ],
        "lastUpdatedTime": now,
    }


def test_it_posts_no_more_often_than_trainer_asks(
    server: StatusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainjob_status, "INTERVAL_SECONDS", 3600.0)
    status = TrainJobStatus.from_environment()
    assert status is not None
    for percent in range(50):
        status.report(RunProgress("2026-11-30T05:31:00Z", "RUNNING", percent, 1, 2))
        until(lambda: server.requests)
    assert server.requests == 1
    status.close(RunProgress("2026-11-30T05:31:01Z", "KILLED", 50, 1, 2), 60)
    assert [s["progressPercentage"] for s in server.statuses[1:]] == [50]


@pytest.mark.parametrize("missing", ["URL", "CA_CERT", "TOKEN", "https"])
def test_outside_of_a_trainjob_nothing_is_posted(
    missing: str, make, server: StatusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing == "https":
        url = server.url.replace("https:", "http:")
        monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", url)
    else:
        monkeypatch.delenv(f"KUBEFLOW_TRAINER_SERVER_{missing}")
    before = threading.active_count()
    assert TrainJobStatus.from_environment() is None
    assert threading.active_count() == before
