"""A run on a cluster, from the profile to the end of the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.cluster import Cluster, dump_cluster, parse_cluster
from components.pytorchjob import build_job, job_name
from components.pytorchjob.manifest import to_yaml
from pipelines.console import say
from pipelines.endpoint import Endpoint
from pipelines.kfp_api import Kfp
from pipelines.run_kfp import Submission, cancel, follow, schedule_runs, start_run
from pipelines.sdpose_pipeline import compile_pipeline, make_pipeline
from sdpose.code_version import code_version
from sdpose.config import Experiment, dump_experiment
from sdpose.config.document import parse_yaml
from sdpose.errors import UserError

# Where the pipeline is compiled to, below the current folder: the work dir is the cluster's.
WORK_DIRS = Path("work_dirs")


@dataclass(frozen=True)
class Wishes:
    """What the command line says about a run on a cluster."""

    run_name: str | None = None
    cache: bool = True
    overwrite: bool = False
    schedule: str | None = None
    wait: bool = False
    cancel_on_interrupt: bool = False


def read_cluster(path: str, volumes: tuple[str, ...], **options: Any) -> Cluster:
    """The profile, with what the command line changes: options replace, volumes are added."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"--cluster {path}: {error.strerror}") from None
    if volumes:
        there = parse_yaml(text, path).get("volumes") or []
        options["volumes"] = [*there, *(_volume(volume) for volume in volumes)]
    return parse_cluster(text, source=path, **options)


def submit_to_cluster(
    endpoint: Endpoint, experiment: Experiment, cluster: Cluster, wishes: Wishes
) -> int:
    """Starts or schedules the run, and waits if that is wished; returns the exit code."""
    kfp = Kfp(endpoint)
    submission = _submission(experiment, cluster, wishes)
    if wishes.schedule:
        schedule_runs(kfp, submission, wishes.schedule, say)
        return 0
    run_id = start_run(kfp, submission, say)
    if wishes.wait:
        return wait(kfp, run_id, cancel_on_interrupt=wishes.cancel_on_interrupt)
    say(f"  to end it: python pipelines/submit.py cancel {run_id}")
    return 0


def wait(kfp: Kfp, run_id: str, *, cancel_on_interrupt: bool) -> int:
    try:
        return follow(kfp, run_id, say)
    except KeyboardInterrupt:
        if cancel_on_interrupt:
            cancel(kfp, run_id, say)
        else:
            say(
                "no longer waiting; the run goes on. To end it:\n"
                f"  python pipelines/submit.py cancel {run_id}"
            )
        return 130


def show_manifests(experiment: Experiment, cluster: Cluster, wishes: Wishes) -> None:
    """What would be submitted, as YAML documents: experiment, training job, pipeline (KFP's IR)."""
    package = _submission(experiment, cluster, wishes).package
    say(f"# compiled pipeline: {package.absolute()}")
    say("# the experiment, as every step receives it")
    say(dump_experiment(experiment).rstrip())
    say("---\n# the training job; its name ends with a hash of the run's id, its owner is the run")
    say(to_yaml(build_job(job_name(experiment, "dry-run"), experiment, cluster)).rstrip())
    say("---\n# the pipeline")
    say(package.read_text(encoding="utf-8").rstrip())


def _submission(experiment: Experiment, cluster: Cluster, wishes: Wishes) -> Submission:
    pipeline = make_pipeline(cluster, cache=wishes.cache, overwrite=wishes.overwrite)
    package = WORK_DIRS / experiment.exp_name / "pipeline" / "sdpose_pipeline.yaml"
    try:
        compile_pipeline(pipeline, package)
    except OSError as error:
        raise UserError(f"cannot write {package}: {error.strerror}") from None
    arguments = {
        "experiment": dump_experiment(experiment),
        "code_version": code_version(),
        "cluster_profile": dump_cluster(cluster),
        "runner": "kfp",
    }
    return Submission(package, arguments, experiment.exp_name, cluster, wishes.run_name)


def _volume(option: str) -> dict[str, str]:
    claim, colon, path = option.partition(":")
    if not (claim and colon and path.startswith("/")):
        raise UserError(f"--volume {option}: expected CLAIM:/PATH, as in coco:/data/coco")
    return {"claim": claim, "path": path}
