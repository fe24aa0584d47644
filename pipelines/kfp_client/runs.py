"""Runs on a Kubeflow Pipelines endpoint: started, scheduled, waited for, resumed, ended."""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from components.launcher import job_name
from components.launcher.kinds import Kind, kinds_of
from components.profile import Cluster, parse_cluster
from pipelines.changes import changes, shortened
from pipelines.cluster.preflight.kube import Kube, NoAccessError, RefusedError
from pipelines.cluster.step_pods import RUN_ID_LABEL
from pipelines.console import say
from pipelines.kfp_client.api import Kfp, Object
from pipelines.kfp_client.errors import KfpError
from pipelines.kfp_client.watch_run import (
    ENDINGS,
    OUT_OF_TOUCH_EXIT_CODE,
    SUCCEEDED,
    OutOfTouchError,
    wait_for_run,
)
from sdpose.config import parse_experiment
from sdpose.documents import parse_json
from sdpose.errors import UserError

# Older KFPs refuse to retry any pipeline of today's kind, or know no such request.
CANNOT_RETRY = {400, 404, 405, 500, 501}


@dataclass(frozen=True)
class Submission:
    """A compiled pipeline and what it is given."""

    package: Path
    arguments: dict[str, Any]
    exp_name: str
    cluster: Cluster
    pipeline: str  # its name in KFP
    run_name: str | None = None  # None: the experiment's, with the time


def start_run(kfp: Kfp, submission: Submission) -> str:
    """Starts a run, in the experiment of its name, and says what has changed since the last one.

    Returns the run's id.
    """
    experiment_id, source = _prepare(kfp, submission)
    _compare(kfp, experiment_id, submission)
    # The end makes it unique: see `Kfp.create_run`.
    default = f"{submission.exp_name} {datetime.now():%Y-%m-%d %H:%M:%S} {secrets.token_hex(2)}"
    run_id = kfp.create_run(
        {
            "experiment_id": experiment_id,
            "display_name": submission.run_name or default,
            **_what_runs(submission, source),
        }
    )
    say(f"run: {kfp.endpoint.run_page(run_id)}")
    return run_id


def kfp_cron(text: str) -> str:
    """KFP's six fields, seconds first, of these or cron's own five.

    >>> kfp_cron("0 3 * * 1")
    '0 0 3 * * 1'
    """
    fields = text.split()
    if len(fields) not in {5, 6}:
        raise UserError(
            f"--schedule '{text}': expected five fields, minute hour day month weekday, as in "
            "'0 3 * * 1' for Mondays at 3:00"
        )
    return " ".join(["0"] * (len(fields) == 5) + fields)


def schedule_runs(kfp: Kfp, submission: Submission, cron: str) -> None:
    """Starts a run whenever `cron` (see `kfp_cron`) says; one at a time, and missed times are not
    made up for. Raises UserError if the experiment has a schedule already.
    """
    experiment_id, source = _prepare(kfp, submission)
    name = submission.run_name or submission.exp_name
    for known in kfp.schedules(experiment_id, name):
        raise UserError(
            f"'{name}' is scheduled already ({known['trigger']['cron_schedule']['cron']}): end "
            f"that first, with `submit.py cancel {known['recurring_run_id']}`, or choose another "
            "--run-name"
        )
    schedule_id = kfp.create_schedule(
        {
            "experiment_id": experiment_id,
            "display_name": name,
            "mode": "ENABLE",
            "trigger": {"cron_schedule": {"cron": cron}},
            "max_concurrency": "1",  # an int64, which KFP declares as a string
            "no_catchup": True,
            **_what_runs(submission, source),
        }
    )
    say(f"scheduled: {cron} (in the time zone of the cluster's KFP, UTC unless it was changed)")
    say(f"  to end it: python pipelines/submit.py cancel {schedule_id}")


def follow_or_cancel(kfp: Kfp, run_id: str, *, cancel_on_interrupt: bool) -> int:
    """`follow`, which Ctrl-C ends: with it the run, if that is wished."""
    try:
        return follow(kfp, run_id)
    except KeyboardInterrupt:
        if cancel_on_interrupt:
            cancel(kfp, run_id)
        else:
            say(
                "no longer waiting; the run goes on. To end it:\n"
                f"  python pipelines/submit.py cancel {run_id}"
            )
        return 130


def follow(kfp: Kfp, run_id: str) -> int:
    """Waits for the run's end and reports it; returns the exit code that says how it ended."""
    try:
        run = wait_for_run(kfp, run_id)
    except OutOfTouchError as error:
        say(f"{error}\nno longer waiting; the run goes on", fg="red")
        return OUT_OF_TOUCH_EXIT_CODE
    state = str(run["state"])
    ending = ENDINGS[state]
    say(f"run {state}: {ending.meaning}", fg="green" if state == SUCCEEDED else "red")
    if state != SUCCEEDED:
        namespace = "NAMESPACE"
        with contextlib.suppress(ValueError, LookupError, TypeError):  # another pipeline's run
            profile = _parameters(run)["cluster_profile"]
            namespace = parse_json(profile, "cluster_profile")["namespace"]
        say(
            f"  its output: kubectl -n {namespace} logs -l {RUN_ID_LABEL}={run_id} -c main "
            "--prefix --tail 50"
        )
        say(f"  to go on where it stopped: python pipelines/submit.py resume {run_id}")
    return ending.exit_code


def resume_run(kfp: Kfp, run_id: str) -> str:
    """Runs again what has not succeeded of a run that has ended; returns the id of the run.

    By KFP's retry: the same run, whose finished steps stay as they are. Where KFP cannot, by a new
    run of the same pipeline with the same values, whose finished steps are found in the cache.
    """
    run = kfp.run(run_id)
    state = str(run.get("state") or "PENDING")
    if state == SUCCEEDED:
        raise UserError(f"run {run_id} has succeeded: there is nothing to resume")
    if state not in ENDINGS:
        raise UserError(
            f"run {run_id} has not ended (it is {state}); `submit.py cancel {run_id}` would end it"
        )
    try:
        kfp.retry(run_id)
        say(f"run {run_id} goes on with the steps that have not succeeded (KFP's retry)")
    except KfpError as error:
        if error.status not in CANNOT_RETRY:
            raise
        source = "pipeline_version_reference"
        if not run.get(source):
            source = "pipeline_spec"
        new = {
            key: run.get(key)
            for key in ("experiment_id", "runtime_config", "service_account", source)
        }
        new["display_name"] = f"{run['display_name']} resumed {secrets.token_hex(2)}"
        new_id = kfp.create_run(new)
        say(f"this KFP cannot retry it ({error})")
        say("so a new run has begun; steps that have succeeded are found in KFP's cache")
        run_id = new_id
    say(f"run: {kfp.endpoint.run_page(run_id)}")
    return run_id


def cancel(kfp: Kfp, some_id: str) -> None:
    """Ends a run and its training job, or a schedule (its runs so far stay)."""
    try:
        run = kfp.run(some_id)
    except KfpError as error:
        if error.status != 404:
            raise
        try:
            kfp.delete_schedule(some_id)
        except KfpError as unknown:
            if unknown.status == 404:
                raise UserError(
                    f"{kfp.endpoint.host} knows no run and no schedule {some_id}"
                ) from None
            raise
        say(f"schedule {some_id} is removed; runs that it has started go on")
        return
    if (state := run.get("state")) in ENDINGS:
        say(f"run {some_id} had ended already: {state}")
    else:
        kfp.terminate(some_id)
        say(f"run {some_id} is being ended")
    _remove_jobs(run, kfp.endpoint.context)


def _remove_jobs(run: Object, context: str | None) -> None:
    """The launchers' jobs, if there are some still: KFP gives a launcher no reliable SIGTERM."""
    given = _parameters(run)
    if not given.get("cluster_profile"):
        return
    cluster = parse_cluster(given["cluster_profile"])
    kinds = list(kinds_of(cluster))
    documents = [trial["experiment"] for trial in given.get("trials", [])]  # of a sweep
    for document in documents or [given["experiment"]]:
        name = job_name(parse_experiment(document), run["run_id"])
        for kind in list(kinds):
            path = kind.resource.path(cluster.namespace, name)
            try:
                if Kube(context).delete(path):
                    what = f"its {kind.name} {name}"
                    say(f"{what} is being removed; training saves a checkpoint first")
            except RefusedError as error:
                kinds.remove(kind)
                say(_cannot_look(error, cluster, [kind], name))
            except NoAccessError as error:
                say(_cannot_look(error, cluster, kinds, name))
                return


def _cannot_look(error: Exception, cluster: Cluster, kinds: list[Kind], name: str) -> str:
    plurals = ",".join(kind.resource.plural for kind in kinds)
    return (
        f"its training ends with it. ({error}, so we cannot look. If it did not: "
        f"kubectl -n {cluster.namespace} delete {plurals} {name})"
    )


def _prepare(kfp: Kfp, submission: Submission) -> tuple[str, Object]:
    """The experiment's id, and the pipeline version that its runs refer to."""
    # A KFP for one user refuses to be asked for a namespace.
    namespace = submission.cluster.namespace if kfp.server().multi_user else None
    experiment_id = kfp.experiment(submission.exp_name, namespace)
    return experiment_id, kfp.pipeline_version(submission.pipeline, submission.package, namespace)


def _what_runs(submission: Submission, source: Object) -> Object:
    """The part that a run and a schedule share."""
    steps = submission.cluster.pipelines
    runtime = {"parameters": submission.arguments} | (
        {"pipeline_root": steps.root} if steps.root else {}
    )
    return {
        "pipeline_version_reference": source,
        "runtime_config": runtime,
        "service_account": steps.service_account,
    }


def _parameters(run: Object) -> Object:
    return (run.get("runtime_config") or {}).get("parameters") or {}


def _compare(kfp: Kfp, experiment_id: str, submission: Submission) -> None:
    """Says which of the cache key's values have changed since the last run."""
    last = next(iter(kfp.runs(experiment_id, count=1)), None)
    if last is None:
        say(f"the first run of {submission.exp_name} here: every step runs")
        return
    different = changes(_parameters(last), submission.arguments)
    name = f"the last run ({last['display_name']}, {last.get('state')})"
    if different:
        say(f"changed since {name}, so what depends on it runs again: {shortened(different)}")
    else:
        say(
            f"nothing has changed since {name}: train and evaluate are taken from it if they "
            "succeeded and prepare_coco finds the same data"
        )
