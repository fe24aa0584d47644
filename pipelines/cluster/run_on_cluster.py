"""A run on a cluster, from the profile to the end of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kfp.dsl.base_component import BaseComponent

from components.launcher import build_job, job_name
from components.launcher.choose import assume
from components.launcher.fit import fit
from components.launcher.manifest import to_yaml
from components.profile import Cluster, dump_cluster, parse_cluster
from pipelines.cluster.preflight import check_from_here
from pipelines.cluster.preflight.images import (
    NoSuchImageError,
    UnknownImageError,
    docker_credentials,
    image_digest,
)
from pipelines.console import say
from pipelines.kfp_client.api import Kfp
from pipelines.kfp_client.endpoint import Endpoint
from pipelines.kfp_client.runs import Submission, cancel, follow, kfp_cron, schedule_runs, start_run
from pipelines.kfp_client.version import remarks
from pipelines.parameters import check_parameter
from pipelines.run_sweep import SWEEPS_FOLDER, SweepRun, plan
from pipelines.sdpose_pipeline import compile_pipeline, make_pipeline
from pipelines.sweep_pipeline import NAME as SWEEP_PIPELINE
from pipelines.sweep_pipeline import make_sweep_pipeline
from sdpose.code_version import source_version
from sdpose.config import Experiment, dump_experiment
from sdpose.config.document import parse_yaml
from sdpose.documents import decode
from sdpose.errors import UserError

# Where the pipeline is compiled to, below the current folder: the work dir is the cluster's.
WORK_DIRS = Path("work_dirs")
KFP_NAMESPACE = "kubeflow"


@dataclass(frozen=True)
class Wishes:
    """What the command line says about a run on a cluster."""

    run_name: str | None = None
    cache: bool = True
    overwrite: bool = False
    promotion: Mapping[str, str] = field(default_factory=dict)  # the pipeline's arguments
    any_code: bool = False
    check: bool = True
    schedule: str | None = None
    wait: bool = False
    cancel_on_interrupt: bool = False


def read_cluster(path: str, volumes: tuple[str, ...], **options: Any) -> Cluster:
    """The profile, with what the command line changes: options replace, volumes are added."""
    try:
        text = decode(Path(path).read_bytes(), f"--cluster {path}")
    except OSError as error:
        raise UserError(f"--cluster {path}: {error.strerror}") from None
    if volumes:
        there = parse_yaml(text, path).get("volumes") or []
        options["volumes"] = [*there, *(_volume(volume) for volume in volumes)]
    cluster = parse_cluster(text, source=path, **options)
    check_parameter(f"--cluster {path}", dump_cluster(cluster), in_pods=True)
    return cluster


def submit_to_cluster(
    endpoint: Endpoint, experiment: Experiment, cluster: Cluster, wishes: Wishes
) -> int:
    """Starts or schedules the run, and waits if that is wished; returns the exit code."""
    cron = kfp_cron(wishes.schedule) if wishes.schedule else None
    kfp = Kfp(endpoint)
    _say_remarks(kfp)
    cluster, wishes = pinned(cluster, wishes)
    submission = _submission(experiment, cluster, wishes)
    if cron:
        schedule_runs(kfp, submission, cron, say)
        return 0
    return _start(kfp, submission, wishes)


def _start(kfp: Kfp, submission: Submission, wishes: Wishes) -> int:
    run_id = start_run(kfp, submission, say)
    if wishes.wait:
        return wait(kfp, run_id, cancel_on_interrupt=wishes.cancel_on_interrupt)
    say(f"  to end it: python pipelines/submit.py cancel {run_id}")
    return 0


def sweep_to_cluster(endpoint: Endpoint, run: SweepRun, cluster: Cluster, wishes: Wishes) -> int:
    """Starts the run of a sweep; returns the exit code."""
    kfp = Kfp(endpoint)
    _say_remarks(kfp)
    return _start(kfp, *_sweep_submission(run, cluster, wishes))


def show_sweep(run: SweepRun, cluster: Cluster, wishes: Wishes) -> None:
    """What would be submitted: the trials, and the pipeline (KFP's IR)."""
    submission, _ = _sweep_submission(run, cluster, wishes, comment="# ")
    say(submission.package.read_text(encoding="utf-8").rstrip())


def _sweep_submission(
    run: SweepRun, cluster: Cluster, wishes: Wishes, comment: str = ""
) -> tuple[Submission, Wishes]:
    plan(run.sweep, run.trials, comment)
    cluster, wishes = pinned(cluster, wishes, comment)
    pipeline = make_sweep_pipeline(
        cluster, parallel=run.parallel, overwrite=wishes.overwrite, check=wishes.check
    )
    name = run.sweep.name
    package = WORK_DIRS / SWEEPS_FOLDER / name / "pipeline" / "sdpose_sweep.yaml"
    _compile(pipeline, package)
    code = "" if wishes.any_code else source_version()
    arguments = run.arguments(code, "kfp", dump_cluster(cluster))
    submission = Submission(
        package, arguments, name, cluster, wishes.run_name, pipeline=SWEEP_PIPELINE
    )
    return submission, wishes


def _say_remarks(kfp: Kfp) -> None:
    """Raises KfpError if no Kubeflow Pipelines is there."""
    for remark in remarks(kfp.server().version):
        say(remark)


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
    cluster, wishes = pinned(cluster, wishes, comment="# ")
    package = _submission(experiment, cluster, wishes).package
    say(f"# compiled pipeline: {package.absolute()}")
    say("# the experiment, as every step receives it")
    say(dump_experiment(experiment).rstrip())
    say("---\n# the training job; its name ends with a hash of the run's id, its owner is the run")
    assumed, notes = assume(cluster)
    for note in notes:
        say(f"# {note}")
    job, _ = fit(build_job(job_name(experiment, "dry-run"), experiment, assumed))
    say(to_yaml(job).rstrip())
    say("---\n# the pipeline")
    say(package.read_text(encoding="utf-8").rstrip())


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
    say(report.settle())


def pinned(cluster: Cluster, wishes: Wishes, comment: str = "") -> tuple[Cluster, Wishes]:
    """The profile with images by digest: what a tag names today runs in every step, and cache keys
    are honest. Where the registry cannot be asked, nothing is taken from the cache."""
    images = {}
    for image in filter(None, (cluster.image, cluster.pipelines.image)):
        if "@" in image:
            continue
        try:
            digest = image_digest(image, docker_credentials())
        except (NoSuchImageError, UnknownImageError) as error:
            say(f"{comment}image {image}: {error}; a tag's bytes may change: no step is cached")
            wishes = replace(wishes, cache=False)
        else:
            images[image] = f"{image}@{digest}"
            say(f"{comment}image {image} is {digest} today")
    image = cluster.image
    steps = cluster.pipelines.image
    pipelines = cluster.pipelines.model_copy(update={"image": images.get(steps or "", steps)})
    update = {"image": images.get(image, image), "pipelines": pipelines}
    return cluster.model_copy(update=update), wishes


def _submission(experiment: Experiment, cluster: Cluster, wishes: Wishes) -> Submission:
    pipeline = make_pipeline(
        cluster,
        cache=wishes.cache,
        overwrite=wishes.overwrite,
        check=wishes.check,
        promotes=bool(wishes.promotion),
    )
    package = WORK_DIRS / experiment.exp_name / "pipeline" / "sdpose_pipeline.yaml"
    _compile(pipeline, package)
    arguments = {
        "experiment": dump_experiment(experiment),
        "code_version": "" if wishes.any_code else source_version(),
        "cluster_profile": dump_cluster(cluster),
        "runner": "kfp",
        **wishes.promotion,
    }
    return Submission(package, arguments, experiment.exp_name, cluster, wishes.run_name)


def _compile(pipeline: BaseComponent, package: Path) -> None:
    try:
        compile_pipeline(pipeline, package)
    except OSError as error:
        raise UserError(f"cannot write {package}: {error.strerror}") from None


def _volume(option: str) -> dict[str, str]:
    claim, colon, path = option.partition(":")
    if not (claim and colon and path.startswith("/")):
        raise UserError(f"--volume {option}: expected CLAIM:/PATH, as in coco:/data/coco")
    return {"claim": claim, "path": path}
