"""One training at a time writes to a work dir in a store, whichever machine it runs on."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from sdpose.cli import cli
from sdpose.config import dump_experiment
from sdpose.errors import UserError
from sdpose.outputs import lease as leases
from sdpose.outputs.lease import LEASE, Holder, Lease, LeaseLostError
from sdpose.outputs.work_dir_lock import leased
from sdpose.runner.work_dir import claim
from sdpose.storage import Store, open_store
from sdpose.training.resume import Start


@pytest.fixture
def bucket(moto, monkeypatch: pytest.MonkeyPatch) -> Store:
    for name, value in moto.environment().items():
        monkeypatch.setenv(name, value)
    return open_store(f"s3://{moto.new_bucket()}/runs/tiny")


@pytest.fixture(params=["folder", "S3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "S3":
        return request.getfixturevalue("bucket")
    return open_store(tmp_path / "store")


def elsewhere(**changes: object) -> Holder:
    """A training on another machine, of which nothing can be seen from here but its lease."""
    return Holder(
        **{
            "token": "another",
            "host": "node-7",
            "process": 41,
            "machine": "another boot pid:[4026531836]",
            "process_started": 5,
            "since": "2026-11-30T08:00:00+00:00",
            "expires_after": 1.0,
            **changes,
        }
    )


def write(store: Store, holder: Holder) -> None:
    store.put(LEASE, holder.model_dump_json().encode())


def read(store: Store) -> Holder:
    return Holder.model_validate_json(store.read(LEASE))


def test_the_second_training_says_who_has_it_and_since_when(
    make, launch, moto, bucket, tmp_path: Path
) -> None:
    """Two machines: each has a scratch folder of its own, and the same bucket."""
    place = bucket.uri("x").rpartition("/")[0]

    def start(name: str, pause: float):
        environment = {**moto.environment(), "SDPOSE_SCRATCH": str(tmp_path / f"scratch_{name}")}
        return launch(make(work_dir=name), environment=environment, pause=pause, work_dir=place)

    first = start("first", 0.1)
    first.wait_for("Epoch [1][2/")
    holder = read(bucket)
    assert holder.process == first.processes[0].pid
    second = start("second", 0.0)
    assert second.wait() == 2, second.text()
    assert f"is in use by another training: process {holder.process} on " in second.text()
    assert f"since {holder.since}" in second.text()
    assert "Traceback" not in second.text()
    assert first.wait() == 0, first.text()
    assert read(bucket).released

    # Now that it has ended: nothing to wait for, nothing to train.
    third = start("third", 0.0)
    assert third.wait() == 0, third.text()
    assert "is finished: nothing to train" in third.text()


def test_a_killed_training_of_this_machine_is_not_waited_for(
    make, launch, moto, bucket, tmp_path: Path
) -> None:
    place = bucket.uri("x").rpartition("/")[0]
    environment = {**moto.environment(), "SDPOSE_SCRATCH": str(tmp_path / "scratch")}
    first = launch(make(work_dir="a"), environment=environment, pause=0.1, work_dir=place)
    first.wait_for("Epoch [1][2/")
    first.signal(signal.SIGKILL)
    first.wait()
    assert not read(bucket).released
    second = launch(make(work_dir="b"), environment=environment, work_dir=place)
    assert second.wait() == 0, second.text()
    assert "waiting for a heartbeat" not in second.text()
    assert read(bucket).released


def test_it_is_taken_over_when_no_heartbeat_comes(store: Store, logged: list[str]) -> None:
    write(store, elsewhere())
    with Lease(store).held() as lease:
        lease.check()
        assert read(store).process == os.getpid()
    (line,) = logged
    assert "was in use by process 41 on node-7, since 2026-11-30T08:00:00+00:00" in line
    assert read(store).released


def test_a_heartbeat_is_a_refusal(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once: a living training is not waited for until it ends."""
    monkeypatch.setattr(leases, "LOOK_SECONDS", 0.01)
    write(store, elsewhere(expires_after=60.0))
    ended = threading.Event()

    def beat() -> None:
        number = 0
        while not ended.wait(0.2):
            number += 1
            write(store, elsewhere(expires_after=60.0, beat=number))

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        with pytest.raises(UserError, match=r"process 41 on node-7, since 2026.*--work-dir"):
            Lease(store).held().__enter__()
    finally:
        ended.set()
        beating.join()
    assert read(store).token == "another"


NEVER = elsewhere().model_dump_json().replace('"expires_after":1.0', '"expires_after":Infinity')


@pytest.mark.parametrize(
    "content", [b"", b"{bad", b"[]", b'{"token": 5}', b"\xff\x00", b"[" * 100_000, NEVER.encode()]
)
def test_a_damaged_lease_expires(
    store: Store, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "EXPIRY_SECONDS", 1.0)
    store.put(LEASE, content)
    with Lease(store).held() as lease:
        lease.check()
        assert read(store).process == os.getpid()


def test_one_of_many_gets_it(store: Store) -> None:
    """All at once, and in one process: none of them is dead."""
    outcomes: list[str] = []
    together, all_tried = threading.Barrier(8), threading.Barrier(8)

    def take() -> None:
        together.wait()
        try:
            with Lease(store).held():
                outcomes.append("got it")
                all_tried.wait()
        except UserError as error:
            outcomes.append("refused" if "in use by another training" in str(error) else "?")
            all_tried.wait()

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["got it"] + ["refused"] * 7


def test_the_former_holder_stops(make, launch, moto, bucket, tmp_path: Path) -> None:
    """As one that did not reach the store while another took it over: it uploads nothing more."""
    place = bucket.uri("x").rpartition("/")[0]
    environment = {**moto.environment(), "SDPOSE_SCRATCH": str(tmp_path / "scratch")}
    run = launch(
        make("total_epochs=1000", "evaluation.interval=1000"),
        environment=environment,
        pause=0.1,
        work_dir=place,
    )
    run.wait_for("Epoch [2][2/")
    write(bucket, elsewhere(beat=9))
    assert run.wait() == 2, run.text()
    assert "is in use by another training: process 41 on node-7" in run.text()
    assert "nothing is uploaded any more" in run.text()
    assert "Traceback" not in run.text()
    assert read(bucket).beat == 9, "it is the other's"


def test_an_upload_needs_the_lease(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.0)  # every check asks the store
    with Lease(store).held() as lease:
        lease.check()
        store.delete(LEASE)  # by hand: nobody has it
        lease.check()
        write(store, elsewhere())
        with pytest.raises(LeaseLostError, match="node-7"):
            lease.check()
        with pytest.raises(LeaseLostError, match="node-7"):
            lease.check()
    assert read(store) == elsewhere()


def test_a_store_without_conditional_writes_says_so(swift, monkeypatch, logged) -> None:
    for name, value in swift.environment().items():
        monkeypatch.setenv(name, value)
    store = open_store(f"s3://{swift.new_bucket()}/runs/tiny")
    with Lease(store).held() as lease:
        lease.check()
        assert not lease.is_held
    (line,) = logged
    assert line.startswith("warning: nothing keeps a second training from writing to s3://")
    assert "If-None-Match" in line


@pytest.mark.parametrize("server", ["moto", "swift"])
def test_uploads_of_another_training_are_left_alone(
    make, server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload below the work dir that was begun just now: it is a killed run's only where nobody
    else can be writing. Swift has no conditional writes."""
    s3 = request.getfixturevalue(server)
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    client, bucket = s3.client(), s3.new_bucket()
    upload = client.create_multipart_upload(Bucket=bucket, Key="runs/tiny/epoch_1.pth")
    experiment = make().model_copy(update={"work_dir": f"s3://{bucket}/runs/tiny"})
    with leased(experiment) as lease:
        assert lease is not None
        assert lease.is_held == (server == "moto")
        claim(experiment, Start(), overwrite=False, lease=lease)
    left = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    assert [one["UploadId"] for one in left] == [upload["UploadId"]] * (server == "swift")


def test_the_object_is_for_people(store: Store) -> None:
    with Lease(store).held():
        content = json.loads(store.read(LEASE))
    assert {"host", "process", "since", "expires_after", "released"} <= set(content)


@pytest.mark.slow
def test_doctor_names_the_holder(make, tmp_path: Path) -> None:
    store = open_store(tmp_path / "mirror/run")
    (tmp_path / "run.yaml").write_text(
        dump_experiment(make(f"checkpoint_config.mirror={tmp_path / 'mirror'}"))
    )

    def doctor() -> str:
        return CliRunner().invoke(cli, ["doctor", str(tmp_path / "run.yaml")]).output

    write(store, elsewhere())
    assert "in use by another training: process 41 on node-7, since 2026-11-30T08" in doctor()
    write(store, elsewhere(released=True))
    assert "in use by another training" not in doctor()


def test_what_another_wrote_cannot_steer_the_terminal(store: Store, logged: list[str]) -> None:
    write(store, elsewhere(host="\x1b[2Jnode\n7"))
    with Lease(store).held():
        pass
    assert logged[0].isprintable()
    assert r"\u001b[2Jnode\u000a7" in logged[0]
