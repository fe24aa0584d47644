"""The launcher of one training job: submits it, supervises it, and decides what is left of it."""

from __future__ import annotations

import contextlib
import logging
import secrets
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from components.interrupts import Interrupted, interrupted_by
from components.kube.api import Api, Object
from components.kube.connection import Connection
from components.kube.errors import ApiError, ApiUnavailableError
from components.launcher.build import build_job, job_name
from components.launcher.compatibility import fit_to_cluster
from components.launcher.failure import JobError
from components.launcher.kinds import Kind, choose_kind, kind_of
from components.launcher.lifecycle import (
    LAUNCHER_ANNOTATION,
    disruption,
    find_owner,
    is_created_by,
    keep_failed,
    remove,
    submit,
)
from components.launcher.supervise import Supervisor
from components.profile import Cluster
from sdpose.config import Experiment
from sdpose.errors import USER_ERROR_EXIT_CODE, UserError
from sdpose.log_setup import log_to, show_log
from sdpose.outputs.work_dir_lock import leased, remove_results

if TYPE_CHECKING:
    from sdpose.comparison.trial_outcome import TrialOutcome
    from sdpose.training.result import TrainResult

logger = logging.getLogger(__name__)


def train_on_cluster(
    experiment: Experiment, cluster: Cluster, *, run_id: str, overwrite: bool, log: Path
) -> TrainResult:
    """Trains in a job of the cluster.

    Args:
        run_id: the pipeline run's; the same run has one job, whichever launcher comes.
        overwrite: remove what the work dir holds, if the job is new.
        log: gets the output of all pods.
    Returns:
        What the job left in the work dir.
    Raises:
        UserError: an error that the user can fix.
        SystemExit: the job failed (1; the reason is printed), or this process was asked to end
            (128 + the signal; the job is gone by then).
    """
    log_to_stdout()

    def prepare() -> None:
        if overwrite:
            # Another's training may be going on there.
            with log_to(logger.info), leased(experiment):
                remove_results(experiment)

    try:
        run_job(experiment, cluster, run_id=run_id, log=log, before_creation=prepare)
    except JobError as failure:
        if failure.exit_code == USER_ERROR_EXIT_CODE:
            raise UserError(str(failure)) from None
        print(f"error: {failure}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None
    except ApiUnavailableError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None

    from sdpose.runner.finished import finished_training

    with log_to(logger.info):
        return finished_training(experiment)


def run_trial_in_job(
    sweep: str,
    experiment: Experiment,
    cluster: Cluster,
    *,
    run_id: str,
    overwrite: bool,
    log: Path,
) -> TrialOutcome:
    """`run_trial` by `train_on_cluster`; for a training that has been finished there is no job."""
    from sdpose.runner.finished import finished_training
    from sdpose.sweeps.trial import run_trial

    log_to_stdout()

    def train(environment: dict[str, str]) -> TrainResult:
        if not overwrite:
            with contextlib.suppress(UserError):
                with log_to(logger.info):
                    found = finished_training(experiment)
                logger.info(f"{experiment.exp_name} has been trained before")
                log.write_text("trained before\n", encoding="utf-8")
                return found
        changed = cluster.model_copy(update={"env": cluster.env | environment})
        return train_on_cluster(experiment, changed, run_id=run_id, overwrite=overwrite, log=log)

    return run_trial(sweep, experiment, train)


def run_job(
    experiment: Experiment,
    cluster: Cluster,
    *,
    run_id: str,
    log: Path,
    before_creation: Callable[[], None] = lambda: None,
) -> None:
    """Submits the job, or finds the one of this run, and stays until it has succeeded.

    Only a job that this launcher created is removed, and only after a JobError other than the job's
    own end (whose pods stay for its TTL), or by SIGTERM or SIGINT, unless this pod is drained,
    evicted or preempted: then the run's next launcher finds the job.

    Args:
        log: gets the output of all pods.
        before_creation: called if the run has no job yet.
    Raises:
        JobError: the job failed, did not start in time or restarted too often.
        ApiError: Kubernetes does not let this launcher go on.
        SystemExit: this process was asked to end.
    """
    api, name = Api(cluster.namespace, Connection()), job_name(experiment, run_id)
    cluster = choose_kind(api, cluster, name)
    launch = _Launch(api, kind_of(cluster), cluster, name, run_id)
    with interrupted_by(signal.SIGTERM, signal.SIGINT):
        try:
            launch.run(experiment, log, before_creation)
        except Interrupted as interrupted:
            launch.interrupted(str(interrupted))
            raise SystemExit(interrupted.exit_code) from None


class _Launch:
    """One job of this process: submitted, supervised, and removed where that is right."""

    def __init__(self, api: Api, kind: Kind, cluster: Cluster, name: str, run_id: str) -> None:
        self._api, self._kind, self._cluster = api, kind, cluster
        self._name, self._run_id = name, run_id
        self._owner: Object | None = None
        self._sent: Object = {}
        self._job: Object | None = None  # in the cluster, once it is known
        self._ours = False

    def run(self, experiment: Experiment, log: Path, before_creation: Callable[[], None]) -> None:
        try:
            self._owner = find_owner(self._api)
            job = build_job(self._name, experiment, self._cluster, self._owner)
            job["metadata"]["annotations"][LAUNCHER_ANNOTATION] = secrets.token_hex(8)
            self._sent = job
            self._job, self._ours = submit(
                self._api,
                self._kind,
                job,
                fit=self._fit,
                before_creation=before_creation,
            )
            origin = "created" if self._ours else "found, it is watched again"
            owner = "it has no owner"
            if self._owner:
                owner = f"it ends with {self._owner['kind']} {self._owner['name']}"
            logger.info(f"{self._what}: {origin}; {owner}")
            Supervisor(self._api, self._kind, self._cluster, experiment, self._job, log).run()
        except ApiError as error:
            error.add(self._what_is_left())
            raise
        except JobError as failure:
            try:
                if not failure.ended_by_itself:
                    failure.add(self._remove(self._api))
                elif self._job is not None:
                    keep_failed(self._api, self._kind, self._job)
            except ApiError as error:
                failure.add(f"{self._what} could not be ended: {error}")
            raise

    def interrupted(self, signal_name: str) -> None:
        """Removes the job, unless it is to outlive this process."""
        api = self._api.brief()
        try:
            outlives_us = self._owner is not None and self._owner["kind"] != "Pod"
            if outlives_us and (why := disruption(api)):
                logger.info(
                    f"{signal_name}: this pod is taken away ({why}); {self._what} is left as it "
                    f"is, and {self._resume} watches it again"
                )
                return
            if self._job is None and self._sent:  # its creation may have been under way
                self._job = api.get(self._kind.resource, self._name)
                self._ours = self._job is not None and is_created_by(self._job, self._sent)
            if self._ours:
                logger.info(f"{signal_name}: removing {self._what} and its pods")
            logger.info(f"{signal_name}: {self._remove(api)}")
        except ApiError as error:
            logger.info(f"{signal_name}: {self._what} could not be removed: {error}")

    def _fit(self, job: Object) -> Object:
        return fit_to_cluster(self._api, self._kind, self._cluster, job)

    def _remove(self, api: Api) -> str:
        """Removes the job if this launcher created it; what has become of it."""
        if self._job is None:
            return "no job was created"
        if not self._ours:
            return (
                f"the job goes on, because a launcher removes only what it created itself: "
                f"`python pipelines/submit.py cancel {self._run_id}` or `kubectl -n "
                f"{self._api.namespace} delete {self._kind.resource.plural} {self._name}` ends it"
            )
        if remove(api, self._kind, self._job, self._cluster.termination_grace_seconds):
            return f"{self._what} and its pods are removed"
        return f"{self._what} is being removed; its pods are not gone yet"

    def _what_is_left(self) -> str:
        """Of the job, now that this launcher gives up."""
        try:
            found = self._api.brief().get(self._kind.resource, self._name)
        except ApiError:
            if self._job is None:
                return f"whether {self._what} exists is not known"
            found = self._job
        if found is None:
            return "there is no job"
        phase = self._kind.phase(found)
        if phase in {"succeeded", "failed"}:
            return f"{self._what} has {phase}"
        return f"the job goes on: {self._resume} watches it again"

    @property
    def _what(self) -> str:
        return f"{self._kind.name} {self._api.namespace}/{self._name}"

    @property
    def _resume(self) -> str:
        return f"`python pipelines/submit.py resume {self._run_id}`"


def log_to_stdout() -> None:
    """Shows what the launcher and its Kubernetes client log as plain lines of the step's output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    show_log("components", handler)
