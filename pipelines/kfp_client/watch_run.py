"""Waiting for a run on Kubeflow Pipelines: what its steps do, and how it ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from pipelines.console import say
from pipelines.kfp_client.api import Kfp, Object
from pipelines.kfp_client.errors import KfpError

FIRST_POLL_S = 0.5
LONGEST_POLL_S = 10.0
# KFP may be restarted or upgraded while a training runs for days.
OUT_OF_TOUCH_S = 1800.0
# Credentials expire until somebody signs in again, and an API server that was restarted forbids
# everything until it knows the roles: after a first answer both are waited for.
REFUSED_FOR_A_WHILE = {401, 403}


@dataclass(frozen=True)
class Ending:
    exit_code: int
    meaning: str


SUCCEEDED = "SUCCEEDED"
ENDINGS = {
    SUCCEEDED: Ending(0, "every step has done its work"),
    "FAILED": Ending(1, "a step has failed"),
    "ERROR": Ending(1, "Kubeflow could not run it"),
    "CANCELED": Ending(3, "somebody has ended it"),
    "SKIPPED": Ending(4, "Kubeflow has run none of its steps"),
}
OUT_OF_TOUCH_EXIT_CODE = 5


class OutOfTouchError(Exception):
    """Kubeflow Pipelines did not answer for long; the run goes on without us."""


@dataclass(frozen=True)
class Step:
    name: str
    state: str  # KFP's, or CACHED
    seconds: float | None


def wait_for_run(kfp: Kfp, run_id: str) -> Object:
    """Reports every step that changes its state, until the run has ended; returns the run.

    Raises OutOfTouchError, and KfpError if KFP refuses to show the run from the beginning.
    """
    shown: dict[str, str] = {}
    silent_since: float | None = None
    answered = False
    delay = FIRST_POLL_S
    while True:
        try:
            run = kfp.run(run_id)
        except KfpError as error:
            if not (error.transient or (answered and error.status in REFUSED_FOR_A_WHILE)):
                raise
            if silent_since is None:
                silent_since = time.monotonic()
                patience = timedelta(seconds=OUT_OF_TOUCH_S)
                say(f"{error}\n  still trying, for up to {patience}; the run goes on")
            if time.monotonic() - silent_since > OUT_OF_TOUCH_S:
                raise OutOfTouchError(str(error)) from None
        else:
            answered = True
            if silent_since is not None:
                silent_since = None
                say(f"{kfp.endpoint.host} answers again")
            state = str(run.get("state") or "PENDING")
            if state not in ENDINGS and shown.get("run") != state:
                shown["run"] = state
                say(f"run {state}")
            for step in steps_of(run):
                if shown.get(step.name) != step.state:
                    shown[step.name] = step.state
                    _say_state(step)
            if state in ENDINGS:
                return run
        time.sleep(delay)
        delay = min(1.3 * delay, LONGEST_POLL_S)


def steps_of(run: Object) -> Iterator[Step]:
    """The steps that have begun, in their order.

    KFP lists what Argo runs for a step: `NAME-driver`, which looks into the cache, `NAME`, and
    below it `executor`, which is skipped if the cache has the result. It names no pod and no error
    of a step (kubeflow/pipelines issue 14007).
    """
    details: list[Object] = (run.get("run_details") or {}).get("task_details") or []
    names = {task.get("display_name") for task in details}
    by_id = {task.get("task_id"): task for task in details}
    steps = [task for task in details if f"{task.get('display_name')}-driver" in names]
    for task in sorted(steps, key=lambda task: task.get("start_time") or "later"):
        if task["display_name"] == "root":
            continue
        below = [by_id.get(child.get("task_id")) for child in task.get("child_tasks") or []]
        below += [each for each in details if each.get("parent_task_id") == task["task_id"]]
        executors = [each for each in below if each and each.get("display_name") == "executor"]
        state = str(task.get("state") or "PENDING")
        if state == SUCCEEDED and any(each.get("state") == "SKIPPED" for each in executors):
            state = "CACHED"
        yield Step(task["display_name"], state, _seconds(task))


def _seconds(task: Object) -> float | None:
    """None if it has not ended."""
    if not (task.get("start_time") and task.get("end_time")):
        return None
    started, ended = (datetime.fromisoformat(task[key]) for key in ("start_time", "end_time"))
    return (ended - started).total_seconds() if ended >= started else None


def _say_state(step: Step) -> None:
    took = f" in {timedelta(seconds=round(step.seconds))}" if step.seconds is not None else ""
    if step.state == SUCCEEDED:
        say(f"  {step.name}: done{took}", fg="green")
    elif step.state == "CACHED":
        say(f"  {step.name}: nothing that it depends on has changed; its earlier result is used")
    elif step.state in {"FAILED", "ERROR"}:
        say(f"  {step.name}: failed{took}", fg="red")
    else:
        say(f"  {step.name}: {step.state.lower()}")
