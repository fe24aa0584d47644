"""Every request of a launcher's life meets every fault: no running job is deleted, no second one is
created, and nothing ends in a traceback.

$SDPOSE_LAUNCHER_FAULTS=all: each fault at each request by itself (`make launcher-faults`); without
it, each fault at all requests of one life, and each request with one of the faults for good.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.kube import api, watch
from components.kube.errors import ApiError
from components.launcher import lifecycle, logs, supervise
from components.launcher.failure import JobError
from tests.cluster.conftest import Launch, Meanwhile, run_in_a_workflow, running, until
from tests.cluster.kinds import KINDS, PYTORCHJOB, JobFacts
from tests.cluster.kube import KubeCluster
from tests.cluster.kube.server import Call, Fault

ALL = os.environ.get("SDPOSE_LAUNCHER_FAULTS") == "all"
REASON = "the test's own reason"
FAULTS: tuple[int | str, ...] = (
    *(401, 403, 404, "page", 409, 410, 422, 429, 500, 503),
    *("refuse", "lose", "cut", "stall", "end"),
)
# verb, resource, and the how-manieth of these calls: what a launcher asks in a life with one
# preempted pod, in order.
Point = tuple[str, str, int]
JOBS, OPENAPI = "JOBS", "OPENAPI"  # stand for those of the kind in question
LIFE: tuple[Point, ...] = (
    ("get", "pods", 0),  # its own
    ("get", JOBS, 0),
    ("get", OPENAPI, 0),
    ("create", JOBS, 0),
    ("list", JOBS, 0),
    ("list", "pods", 0),
    ("watch", JOBS, 0),
    ("watch", "pods", 0),
    ("get", "pods/log", 0),
    ("get", "pods/log", 1),
    ("get", "pods", 1),
    ("get", "pods", 2),
    ("patch", JOBS, 0),
    ("get", "pods/log", 2),
    ("list", "pods", 1),
)
INTERRUPT: tuple[Point, ...] = (
    ("get", "pods", -1),  # its own: is it drained?
    ("delete", JOBS, 0),
    ("get", JOBS, -1),
    ("list", "pods", -1),
)
GET_JOB = ("get", JOBS, 0)
CREATE = ("create", JOBS, 0)


@pytest.fixture(params=KINDS if ALL else [PYTORCHJOB], ids=lambda facts: str(facts.train_api))
def job_kind(request: pytest.FixtureRequest) -> JobFacts:
    found: JobFacts = request.param
    return found


def is_final(what: int | str, point: Point) -> bool:
    """Whether another try of the same request cannot succeed."""
    if point == LIFE[0]:  # nobody has answered yet: a launcher without rights ends at once
        return what in {403, "page", 410, 422}
    return what == 422 or (point == CREATE and what == 404)


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "FIRST_DELAY_S", 0.05)
    monkeypatch.setattr(api, "READ_TIMEOUT_S", 2.0)
    monkeypatch.setattr(api, "BRIEF_BUDGET_S", 5.0)
    monkeypatch.setattr(lifecycle, "REMOVAL_MARGIN_S", 5.0)
    monkeypatch.setattr(lifecycle, "POLL_S", 0.1)
    for module in (watch, logs):
        monkeypatch.setattr(module, "PAUSE_S", 0.1)
        monkeypatch.setattr(module, "SILENCE_S", 3.0)


@pytest.fixture(autouse=True)
def no_thread_fails(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    failed: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    yield
    assert not failed, failed


def is_of(call: Call, point: Point, facts: JobFacts) -> bool:
    """Whether it is a call of the kind that a point names."""
    names = {JOBS: facts.plural, OPENAPI: f"/openapi/v3/apis/{facts.group}/{facts.version}"}
    return (call.verb, call.resource) == (point[0], names.get(point[1], point[1]))


def at(point: Point, facts: JobFacts, *, from_then_on: bool) -> Callable[[Call], bool]:
    """Picks a call. A test's server asks in the order in which calls come."""
    number, seen = point[2], 0

    def picks(call: Call) -> bool:
        nonlocal seen
        if not is_of(call, point, facts):
            return False
        seen += 1
        return seen > number if from_then_on else seen == number + 1

    return picks


def fault_at(what: int | str, when: Callable[[Call], bool], times: int = 1) -> Fault:
    return Fault(what, when, times=times, seconds=4.0 if what == "stall" else 0.0, message=REASON)


def check_what_is_left(
    kube: KubeCluster, facts: JobFacts, error: BaseException | None, *, can_look: bool = True
) -> None:
    """The promise, whatever happened."""
    assert not any(call.verb == "delete" for call in kube.calls)
    created = facts.ever(kube)
    assert created <= 1
    assert len(facts.jobs(kube)) == created
    assert error is None or isinstance(error, ApiError), repr(error)
    text = str(error or "")
    if error is not None and not can_look and not created:
        assert "exists is not known" in text
        return
    assert ("the job goes on" in text or "has succeeded" in text) == bool(error and created), text
    assert ("there is no job" in text) == (error is not None and not created), text


def life(launch: Launch, results: Path, said: list[str]) -> ApiError | None:
    """A life with a preempted pod, to its end; the error with which the launcher gave up."""
    (results / "exit-1").write_text("143")
    try:
        launch(said=said)
    except ApiError as error:
        return error
    return None


@pytest.mark.parametrize("what", FAULTS)
@pytest.mark.parametrize("point", LIFE if ALL else [None], ids=str)
def test_fault_that_passes(
    what: int | str,
    point: Point | None,
    launch: Launch,
    results: Path,
    kube: KubeCluster,
    job_kind: JobFacts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At one request, or at all requests of a life."""
    run_in_a_workflow(kube, monkeypatch)
    points = [point] if point else [each for each in LIFE if not is_final(what, each)]
    faults = [fault_at(what, at(each, job_kind, from_then_on=False)) for each in points]
    kube.fault(*faults)
    said: list[str] = []
    error = life(launch, results, said)
    check_what_is_left(kube, job_kind, error)
    if error is None:
        assert f"[{job_kind.replicas[0]}] done" in said or what in {422, 404}  # a pod's log, say
    else:
        assert point is not None, str(error)
        assert is_final(what, point), error
        assert REASON in str(error) or what == "page"


@pytest.mark.parametrize("number", range(len(LIFE) * (len(FAULTS) if ALL else 1)))
def test_fault_that_stays(
    number: int,
    launch: Launch,
    results: Path,
    kube: KubeCluster,
    job_kind: JobFacts,
    meanwhile: Meanwhile,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At one request, and all of its kind after it; others are answered."""
    monkeypatch.setattr(supervise, "LAST_LINES_S", 5.0)
    monkeypatch.setattr(api, "RETRY_BUDGET_S", 3.0)
    monkeypatch.setattr(api, "REFUSAL_BUDGET_S", 2.0)
    run_in_a_workflow(kube, monkeypatch)
    point = LIFE[number % len(LIFE)]
    what = FAULTS[(number % len(LIFE) + number // len(LIFE)) % len(FAULTS)]
    fault = fault_at(what, at(point, job_kind, from_then_on=True), times=10**6)
    kube.fault(fault)
    (results / "hold").touch()
    over = threading.Event()
    said: list[str] = []

    def let_go() -> None:
        until(lambda: fault.met > 1 or over.is_set() or calm())
        (results / "hold").unlink()

    def calm() -> bool:
        """The worker has started again, and nothing more is asked of what the fault hits."""
        return said.count(f"[{job_kind.replicas[1]}] line 3") > 1

    meanwhile(let_go)
    try:
        error = life(launch, results, said)
    finally:
        over.set()
    check_what_is_left(kube, job_kind, error, can_look=point != GET_JOB)
    if isinstance(what, int) and error is not None:
        assert REASON in str(error)


@pytest.mark.parametrize("what", FAULTS if ALL else [403, 409, "lose"])
def test_fault_while_a_failed_job_is_replaced(
    what: int | str, launch: Launch, results: Path, kube: KubeCluster, job_kind: JobFacts
) -> None:
    (results / "exit-0").write_text("3")
    with pytest.raises(JobError, match="exit code 3"):
        launch()
    delete = ("delete", JOBS, 0)
    fault = fault_at(what, at(delete, job_kind, from_then_on=False))
    kube.fault(fault)
    if what == 422:
        with pytest.raises(ApiError, match=REASON):
            launch()
        assert job_kind.ever(kube) == 1
        return
    said = launch()
    assert fault.met == 1
    assert "had failed" in said[0]
    assert f"[{job_kind.replicas[0]}] done" in said
    assert job_kind.ever(kube) == 2


@pytest.mark.parametrize("stays", [False, True], ids=["passes", "stays"])
@pytest.mark.parametrize("number", range(len(INTERRUPT) * (len(FAULTS) if ALL else 1)))
def test_fault_while_a_person_ends_it(
    number: int,
    stays: bool,
    launch: Launch,
    results: Path,
    kube: KubeCluster,
    job_kind: JobFacts,
    meanwhile: Meanwhile,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A SIGTERM removes the job as soon as the API lets it; what is left is said."""
    monkeypatch.setattr(api, "BRIEF_BUDGET_S", 2.5)
    run_in_a_workflow(kube, monkeypatch)
    point = INTERRUPT[number % len(INTERRUPT)]
    what = FAULTS[(number // len(INTERRUPT) + 4 * (number % len(INTERRUPT))) % len(FAULTS)]
    (results / "hold").touch()
    said: list[str] = []

    def interrupt() -> None:
        until(lambda: running(kube, job_kind.pods[1]))
        until(lambda: f"[{job_kind.replicas[1]}] line 3" in said)
        times = 10**6 if stays else 1
        kube.fault(fault_at(what, lambda call: is_of(call, point, job_kind), times=times))
        os.kill(os.getpid(), signal.SIGTERM)

    meanwhile(interrupt)
    with pytest.raises(SystemExit) as end:
        launch(said=said)
    assert end.value.code == 128 + signal.SIGTERM
    last = said[-1]
    if job_kind.jobs(kube):
        assert "could not be removed" in last or "its pods are not gone yet" in last, said
    else:
        assert "its pods are removed" in last or "its pods are not gone yet" in last, said
    if not stays and what != 422:
        until(lambda: not job_kind.jobs(kube))
