"""`sdpose doctor`: everything that a training on this machine needs, checked by trying it."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from sdpose import tracking
from sdpose.checks.batch import Trial, check_batch
from sdpose.checks.first_steps import try_steps
from sdpose.checks.names import check_mlflow, check_registry
from sdpose.checks.quick_check import QuickCheck, quick_check
from sdpose.checks.report import Report
from sdpose.checks.services import check_tracking, check_writable, time_limits
from sdpose.checks.space import Need, check_space
from sdpose.checks.start import check_start
from sdpose.config import Experiment
from sdpose.data.auto_skeleton import with_skeleton
from sdpose.errors import UserError
from sdpose.log_setup import log_to
from sdpose.registry import registry_root
from sdpose.runner.work_dir import open_mirror
from sdpose.storage import Store, open_store
from sdpose.training.paths import run_paths

SHARED_MEMORY = Path("/dev/shm")
BATCHES_PER_WORKER = 2  # torch's prefetch_factor
PACKED_SAMPLE_BYTES = 220_000  # the pixels that a crop reads


def examine(experiment: Experiment, *, overwrite: bool = False, steps: int = 0) -> Report:
    """Checks everything that a training of the experiment on this machine needs.

    Changes nothing: what it writes for trial is removed.

    Args:
        overwrite: as `sdpose train` has it.
        steps: how many steps to train on the dataset, if nothing of it is missing.
    """
    report = Report("doctor")
    try:
        experiment = with_skeleton(experiment)
    except UserError as error:  # the model, the batch and the checkpoints depend on it
        what, _, remedy = str(error).partition("\n")
        report.problem(what, remedy)
        return report
    check = _check_data(experiment, report)
    if steps and not check.problems:
        try_steps(experiment, steps, report)
    check_batch(experiment, report)
    trial = Trial(experiment, torch.device("cpu"))
    _check_shared_memory(experiment, report)
    with time_limits():
        mirror = _check_mirror(experiment, report)
        check_start(experiment, trial.model, mirror, report, overwrite=overwrite)
        packs = [Need("the pack", *check.pack)] if check.pack else []
        registry = _open_registry(report)
        check_space(experiment, trial.checkpoint(), mirror[0], registry, packs, report)
        if registry is not None:
            _check_registry(experiment, registry, report)
        if any(hook.type == "MlflowLoggerHook" for hook in experiment.log_config.hooks):
            _check_mlflow(experiment, report)
    return report


def _check_data(experiment: Experiment, report: Report) -> QuickCheck:
    check = quick_check(experiment)
    report.fine += check.lines
    report.warnings += check.warnings
    for what, remedy in check.problems:
        report.problem(what, remedy)
    return check


def _check_shared_memory(experiment: Experiment, report: Report) -> None:
    """Where loaders hand over their batches; small in containers unless somebody sets it."""
    workers = experiment.data.workers_per_gpu * max(1, torch.cuda.device_count())
    if not workers or not SHARED_MEMORY.is_dir():
        return
    (width, height), (columns, rows) = (
        experiment.data_cfg.image_size,
        experiment.data_cfg.heatmap_size,
    )
    sample = PACKED_SAMPLE_BYTES
    if experiment.data.pipeline == "exact":
        sample = 4 * (3 * width * height + experiment.keypoints.num_keypoints * columns * rows)
    need = workers * BATCHES_PER_WORKER * experiment.data.samples_per_gpu * sample
    free = shutil.disk_usage(SHARED_MEMORY).free
    text = f"shared memory: {workers} loaders take up to {need / 1e6:.0f} MB of {SHARED_MEMORY}"
    if need > free:
        report.problem(
            f"{text}, where {free / 1e6:.0f} MB are free",
            "docker run --shm-size=8g (Kubernetes: an emptyDir with medium: Memory there), or "
            "fewer data.workers_per_gpu",
        )
    else:
        report.fine.append(f"{text} ({free / 1e6:.0f} MB free)")


def _check_mirror(experiment: Experiment, report: Report) -> tuple[Store | None, list[str]]:
    """Store and keys, as `open_mirror` gives them; (None, []) if it cannot be used."""
    uri = run_paths(experiment).mirror
    if uri is None:
        return None, []
    if uri.startswith("s3:") and not check_writable(uri, "the mirror", report, conditional=False):
        return None, []
    try:
        with log_to(lambda line: None):  # the report says it
            return open_mirror(experiment)
    except UserError as error:
        report.error("the mirror", error)
        return None, []


def _open_registry(report: Report) -> Store | None:
    """None if it cannot be used."""
    root = registry_root()
    if root.startswith("s3:"):
        return check_writable(root, "the model registry", report, conditional=True)
    try:
        return open_store(root)
    except UserError as error:
        report.error("the model registry", error)
        return None


def _check_registry(experiment: Experiment, registry: Store, report: Report) -> None:
    try:
        check_registry(experiment, registry, report)
    except UserError as error:
        report.error("the model registry", error)


def _check_mlflow(experiment: Experiment, report: Report) -> None:
    uri = tracking.tracking_uri()
    if not tracking.is_configured():
        report.fine.append(f"MLflow: a new database, {uri}; MLFLOW_TRACKING_URI names a server")
        return
    if check_tracking(report):
        try:
            check_mlflow(experiment, report)
        except UserError as error:
            report.error("", error)
