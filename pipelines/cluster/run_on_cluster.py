"""Submits an experiment or a sweep to Kubeflow Pipelines: built, shown, checked, started."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.launcher import build_job, job_name
from components.launcher.build import to_yaml
from components.launcher.compatibility import fit
from components.launcher.kinds import assume_kind
from components.profile import Cluster, dump_cluster, load_cluster
from pipelines.cluster.preflight import check_from_here
from pipelines.cluster.preflight.images import (
    NoSuchImageError,
    UnknownImageError,
    docker_credentials,
    image_digest,
)
from pipelines.console import confirm, say
from pipelines.kfp_client.api import Kfp
from pipelines.kfp_client.endpoint import Endpoint
from pipelines.kfp_client.runs import (
    Submission,
    follow_or_cancel,
    kfp_cron,
    schedule_runs,
    start_run,
)
from pipelines.kfp_client.version import remarks
from pipelines.options import SubmitOptions
from pipelines.parameters import check_parameter
from pipelines.sdpose_pipeline import NAME as PIPELINE
from pipelines.sdpose_pipeline import compile_pipeline, make_pipeline
from pipelines.sweep_pipeline import NAME as SWEEP_PIPELINE
from pipelines.sweep_pipeline import make_sweep_pipeline
from pipelines.sweep_run import SWEEPS_FOLDER, SweepRun
from sdpose.code_version import source_version
from sdpose.config import Experiment, dump_experiment
from sdpose.errors import UserError

# Where the pipeline is compiled to, below the current folder: the work dir is the cluster's.
WORK_DIRS = Path("work_dirs")
KFP_NAMESPACE = "kubeflow"


def read_cluster(path: str, volumes: Sequence[str] = (), **options: Any) -> Cluster:
    """`load_cluster`, for a profile that travels as a parameter of the pipeline."""
    cluster = load_cluster(path, volumes, **options)
    check_parameter(f"--cluster {path}", dump_cluster(cluster), in_pods=True)
    return cluster


def run_on_cluster(
    work: Experiment | SweepRun,
    cluster: Cluster,
    endpoint: Endpoint | None,
    options: SubmitOptions,
) -> int:
    """Shows, checks, schedules or starts the run, as the options say; returns the exit code.

    endpoint: a dry run can do without.
    """
    if options.dry_run:
        show(work, cluster, options)
        return 0
    assert endpoint is not None
    if options.check:
        check_cluster(endpoint, cluster)
        return 0
    if options.runner is None and options.endpoint is None:
        name = f"the sweep {work.sweep.name}" if isinstance(work, SweepRun) else work.exp_name
        confirm(f"Submit {name} to {endpoint.host}?", options.yes)
    cron = kfp_cron(options.schedule) if options.schedule else None
    kfp = Kfp(endpoint)
    for remark in remarks(kfp.server().version):  # raises KfpError if nothing of KFP answers
        say(remark)
    submission = _submission(work, cluster, options)
    if cron:
        schedule_runs(kfp, submission, cron)
        return 0
    run_id = start_run(kfp, submission)
    if options.wait:
        return follow_or_cancel(kfp, run_id, cancel_on_interrupt=options.cancel_on_interrupt)
    say(f"  to end it: python pipelines/submit.py cancel {run_id}")
    return 0


def show(work: Experiment | SweepRun, cluster: Cluster, options: SubmitOptions) -> None:
    """Prints what would be submitted, as YAML documents: of an experiment itself, its training job
    and the pipeline (KFP's IR); of a sweep, its trials and the pipeline."""
    submission = _submission(work, cluster, options)
    if isinstance(work, Experiment):
        say(f"# compiled pipeline: {submission.package.absolute()}")
        say("# the experiment, as every step receives it")
        say(dump_experiment(work).rstrip())
        say(
            "---\n# the training job; its name ends with a hash of the run's id, its owner is the "
            "run"
        )
        assumed, notes = assume_kind(submission.cluster)
        for note in notes:
            say(f"# {note}")
        job, _ = fit(build_job(job_name(work, "dry-run"), work, assumed))
        say(to_yaml(job).rstrip())
        say("---\n# the pipeline")
    say(submission.package.read_text(encoding="utf-8").rstrip())


def check_cluster(endpoint: Endpoint, cluster: Cluster) -> None:
    """Prints what is there; raises UserError with all problems."""
    report = check_from_here(cluster, endpoint.context)
    try:
        server = Kfp(endpoint).server()
    except UserError as error:
        what, _, remedy = str(error).partition("\n")
        report.problem(what, remedy.strip() or "correct it, or give another --endpoint")
    else:
        users = "several users" if server.multi_user else "one user"
        name = f"Kubeflow Pipelines {server.version}".rstrip()
        report.fine.insert(0, f"{name} answers at {endpoint.host}, for {users}")
        report.unknown += remarks(server.version)
        if not server.multi_user and cluster.namespace != KFP_NAMESPACE:
            report.unknown.append(
                "a KFP for one user runs all steps in its own namespace, mostly "
                f"{KFP_NAMESPACE}: their volumes and secrets must be there, too, not only in "
                f"{cluster.namespace}"
            )
    say(report.raise_if_problems())


def _submission(
    work: Experiment | SweepRun, cluster: Cluster, options: SubmitOptions
) -> Submission:
    """Compiles the pipeline, with images by digest."""
    if isinstance(work, SweepRun):
        work.say_plan(options.comment)
    cluster, has_digests = pinned(cluster, options.comment)
    common = {"overwrite": options.overwrite, "check": not options.no_preflight}
    code = "" if options.any_code else source_version()
    if isinstance(work, SweepRun):
        pipeline = make_sweep_pipeline(cluster, parallel=work.parallel, **common)
        name, pipeline_name = work.sweep.name, SWEEP_PIPELINE
        package = WORK_DIRS / SWEEPS_FOLDER / name / "pipeline" / "sdpose_sweep.yaml"
        arguments = work.arguments(code, "kfp", dump_cluster(cluster))
    else:
        pipeline = make_pipeline(
            cluster,
            cache=has_digests and not options.no_cache,
            promotes=bool(options.promote),
            **common,
        )
        name, pipeline_name = work.exp_name, PIPELINE
        package = WORK_DIRS / name / "pipeline" / "sdpose_pipeline.yaml"
        arguments = {
            "experiment": dump_experiment(work),
            "code_version": code,
            "cluster_profile": dump_cluster(cluster),
            "runner": "kfp",
            **options.promotion,
        }
    try:
        compile_pipeline(pipeline, package)
    except OSError as error:
        raise UserError(f"cannot write {package}: {error.strerror}") from None
    return Submission(package, arguments, name, cluster, pipeline_name, options.run_name)


def pinned(cluster: Cluster, comment: str = "") -> tuple[Cluster, bool]:
    """The profile with images by digest, and whether all have one.

    What a tag names today then runs in every step, and cache keys are honest. Where the registry
    cannot be asked, nothing may be taken from the cache.
    """
    images, has_digests = {}, True
    for image in filter(None, (cluster.image, cluster.pipelines.image)):
        if "@" in image:
            continue
        try:
            digest = image_digest(image, docker_credentials())
        except (NoSuchImageError, UnknownImageError) as error:
            say(f"{comment}image {image}: {error}; a tag's bytes may change: no step is cached")
            has_digests = False
        else:
            images[image] = f"{image}@{digest}"
            say(f"{comment}image {image} is {digest} today")
    image = cluster.image
    steps = cluster.pipelines.image
    pipelines = cluster.pipelines.model_copy(update={"image": images.get(steps or "", steps)})
    update = {"image": images.get(image, image), "pipelines": pipelines}
    return cluster.model_copy(update=update), has_digests
