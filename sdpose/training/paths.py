"""Paths and file names of a run. Imports no PyTorch: reading a run must not require it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sdpose.cache import scratch_dir
from sdpose.config import Experiment

LATEST = "latest.pth"
BEST = "best_*_epoch_*.pth"  # of one metric, evaluation.save_best
POSITION = "latest.json"  # in a mirror: the position of its latest.pth
EXPERIMENT_FILE = "experiment.yaml"
MLFLOW_RUN_FILE = "mlflow_run_id"
MLFLOW_QUEUE = "mlflow_queue.jsonl"  # not yet sent to MLflow
PROGRESS_FILE = "progress.json"  # the current position (sdpose/outputs/run_progress.py)
REPORT = "report.html"

# Files that a run writes to its work dir; --overwrite removes these and nothing else.
OWN_FILES = (
    EXPERIMENT_FILE,
    MLFLOW_RUN_FILE,
    MLFLOW_QUEUE,
    PROGRESS_FILE,
    "summary.json",
    REPORT,
    "????????_??????.log",
    "????????_??????.log.json",
    "tf_logs/events.out.tfevents.*",
)
OWN_CHECKPOINTS = (LATEST, "epoch_*.pth", BEST, ".*.pth.tmp*")


@dataclass(frozen=True)
class RunPaths:
    """The locations of a run's results."""

    work_dir: Path
    """The folder that is worked in; of `work_dir: s3://bucket/prefix` one of its own, below
    `scratch_dir`."""
    checkpoints: Path
    """Where the .pth files go: the work dir, or a folder of its name in checkpoint_config.out_dir
    (as mmcv does it: experiments that share an out_dir do not overwrite each other's)."""
    mirror: str | None
    """The second place of the results: the work dir itself if it is a URI, else a folder of its
    name in checkpoint_config.mirror (as out_dir), if there is one."""


def run_paths(experiment: Experiment) -> RunPaths:
    assert experiment.work_dir is not None  # the schema fills it in
    settings = experiment.checkpoint_config
    if "://" in experiment.work_dir:
        scheme, _, place = experiment.work_dir.partition("://")
        work_dir = scratch_dir() / Path("work_dirs", scheme, *place.strip("/").split("/"))
        mirror: str | None = experiment.work_dir
    else:
        work_dir = Path(experiment.work_dir)
        mirror = settings.mirror and f"{settings.mirror.rstrip('/')}/{work_dir.absolute().name}"
    out_dir = settings.out_dir
    checkpoints = work_dir if out_dir is None else Path(out_dir) / work_dir.absolute().name
    return RunPaths(work_dir, checkpoints, mirror)


def newest_first(names: Iterable[str]) -> list[str]:
    """Return those of `names` that are checkpoints, the newest first.

    latest.pth is replaced at every save; epoch_N.pth and best_AP_epoch_N.pth follow it by N.

    >>> newest_first(["epoch_9.pth", "x.pth", "best_AP_epoch_10.pth", "epoch_10.pth", "latest.pth"])
    ['latest.pth', 'epoch_10.pth', 'best_AP_epoch_10.pth', 'epoch_9.pth']
    """
    known = [name for name in names if name == LATEST or epoch_of(name) is not None]
    order = {name: (name == LATEST, epoch_of(name) or 0, name) for name in known}
    return sorted(known, key=order.__getitem__, reverse=True)


def outdated(names: Iterable[str], new: str, keep: int) -> list[str]:
    """Return those of `names` that a new checkpoint replaces.

    A best one replaces all other best ones; epoch_N.pth all but the `keep` newest up to N (-1: none
    is replaced). Later ones are kept: the run was continued from an earlier epoch since.

    >>> outdated([f"epoch_{n}.pth" for n in (1, 2, 3, 9)], "epoch_3.pth", keep=2)
    ['epoch_1.pth']
    >>> outdated(["best_AP_epoch_2.pth", "epoch_2.pth"], "best_AP_epoch_3.pth", keep=2)
    ['best_AP_epoch_2.pth']
    """
    if is_best(new):
        return [name for name in names if is_best(name) and name != new]
    epoch = epoch_of(new)
    if epoch is None or keep < 0:
        return []
    numbers = {name: epoch_of(name) or 0 for name in names if name.startswith("epoch_")}
    ours = sorted((number, name) for name, number in numbers.items() if 0 < number <= epoch)
    return [name for _, name in ours[: max(len(ours) - keep, 0)]]


def epoch_of(name: str) -> int | None:
    """Return N of `epoch_N.pth` and `best_AP_epoch_N.pth`, None for other names.

    >>> epoch_of("best_AP_epoch_10.pth"), epoch_of("epoch_last.pth")
    (10, None)
    """
    match = re.fullmatch(r"(?:best_[A-Za-z]+_)?epoch_(\d+)\.pth", name)
    return int(match.group(1)) if match else None


def best_name(metric: str, epoch: int) -> str:
    """Return the name of the checkpoint that is the best so far by a metric."""
    return f"best_{metric}_epoch_{epoch}.pth"


def is_best(name: str) -> bool:
    """
    >>> [is_best(name) for name in ("best_AP_epoch_2.pth", "best_PCKh_epoch_3.pth", "epoch_2.pth")]
    [True, True, False]
    """
    return name.startswith("best_") and epoch_of(name) is not None
