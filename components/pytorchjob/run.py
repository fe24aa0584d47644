"""The launcher: one training job, from its submission to its outcome."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from components.cluster import Cluster
from components.pytorchjob.api import Api, ApiUnavailableError, UnauthorizedError
from components.pytorchjob.build import build_job, job_name
from components.pytorchjob.choose import choose
from components.pytorchjob.fit import fit_to_cluster
from components.pytorchjob.hold import hold
from components.pytorchjob.kinds import kind_of
from components.pytorchjob.outcome import JobError
from components.pytorchjob.submit import disruption, find_owner, remove, submit
from components.pytorchjob.supervise import Supervisor
from sdpose.config import Experiment
from sdpose.errors import USER_ERROR_EXIT_CODE, UserError
from sdpose.training.result import TrainResult, finished_training
from sdpose.training.trial import TrialOutcome, run_trial
from sdpose.training.workdir import remove_results


def train_on_cluster(
    experiment: Experiment, cluster: Cluster, *, run_id: str, overwrite: bool, log: Path
) -> TrainResult:
    """Trains in a job of the cluster and returns what it left in the work dir.

    log: gets the output of all pods. overwrite: remove what the work dir holds, if the job is new.
    Raises UserError for what a person can mend, SystemExit if the job failed (1, all being said) or
    this process was asked to end (128 + the signal; the job is gone by then).
    """

    def prepare() -> None:
        if overwrite:
            remove_results(experiment)

    try:
        run_job(experiment, cluster, run_id=run_id, log=log, say=say, before_creation=prepare)
    except JobError as failure:
        if failure.exit_code == USER_ERROR_EXIT_CODE:
            raise UserError(str(failure)) from None
        print(f"error: {failure}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None
    except ApiUnavailableError as error:
        print(f"error: {error}; the job goes on", file=sys.stderr, flush=True)
        raise SystemExit(1) from None
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

    def train(environment: dict[str, str]) -> TrainResult:
        if not overwrite:
            with contextlib.suppress(UserError):
                found = finished_training(experiment)
                say(f"{experiment.exp_name} has been trained before")
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
    say: Callable[[str], None],
    before_creation: Callable[[], None] = lambda: None,
) -> None:
    """Submits the job, or finds the one of this run, and stays until it has succeeded.

    Raises JobError if it fails, does not start in time or restarts too often: it is gone then,
    unless it failed by itself (its pods stay for its TTL). SIGTERM and SIGINT remove it, unless
    this pod is drained, evicted or preempted: then the run's next launcher finds it.
    """
    api, name = Api(cluster.namespace), job_name(experiment, run_id)
    cluster = choose(api, cluster, name, say)
    kind = kind_of(cluster)
    owner = find_owner(api)
    job = build_job(name, experiment, cluster, owner)
    with _interruptible():
        created, new = None, False
        try:
            created, new = submit(
                api,
                kind,
                job,
                fit=lambda built: fit_to_cluster(api, kind, cluster, built, say),
                before_creation=before_creation,
                say=say,
            )
            say(
                f"{kind.name} {api.namespace}/{name}: "
                f"{'created' if new else 'found, it is watched again'}; "
                + (f"it ends with {owner['kind']} {owner['name']}" if owner else "it has no owner")
            )
            Supervisor(api, kind, cluster, experiment, created, log, say).run()
        except _Interrupted as interrupted:
            outlives_us = owner is not None and owner["kind"] != "Pod"
            if outlives_us and (why := disruption(api)):
                say(
                    f"{interrupted}: this pod is taken away ({why}); {kind.name} {name} is left as "
                    "it is, and `submit.py resume` watches over it again"
                )
                raise SystemExit(128 + interrupted.signum) from None
            say(f"{interrupted}: removing {kind.name} {name} and its pods")
            # The creation may have been under way.
            created = created or api.get(kind.resource, name)
            if created and not remove(api, kind, created, cluster.termination_grace_seconds):
                say("the pods are not gone yet; Kubernetes goes on removing them")
            raise SystemExit(128 + interrupted.signum) from None
        except UnauthorizedError:
            raise
        except (JobError, UserError) as failure:
            if created and not getattr(failure, "ended_by_itself", False):
                remove(api, kind, created, cluster.termination_grace_seconds)
            elif created:
                hold(api, kind, created)
            raise


def say(text: str) -> None:
    print(text, flush=True)


class _Interrupted(BaseException):
    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """The first SIGTERM or SIGINT raises _Interrupted; later ones change nothing."""
    signals = (signal.SIGTERM, signal.SIGINT)

    def interrupt(signum: int, _frame: object) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        raise _Interrupted(signum)

    before = {each: signal.signal(each, interrupt) for each in signals}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
