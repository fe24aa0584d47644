"""What lies where in a work dir. Imports no PyTorch: what only looks at a run needs none."""

from __future__ import annotations

from pathlib import Path

from sdpose.cache import scratch_dir
from sdpose.config import Experiment

LATEST = "latest.pth"
EXPERIMENT_FILE = "experiment.yaml"
MLFLOW_RUN_FILE = "mlflow_run_id"
MLFLOW_QUEUE = "mlflow_queue.jsonl"  # what MLflow has not got yet
PROGRESS_FILE = "progress.json"  # how far the run has come (progress.py)
REPORT = "report.html"

# What a run leaves in its work dir; --overwrite removes these and nothing else.
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
OWN_CHECKPOINTS = (LATEST, "epoch_*.pth", "best_AP_epoch_*.pth", ".*.pth.tmp*")


def work_dir_of(experiment: Experiment) -> Path:
    """The folder that is worked in; of `work_dir: s3://bucket/prefix` one of its own, below
    `scratch_dir`."""
    assert experiment.work_dir is not None  # the schema fills it in
    if "://" not in experiment.work_dir:
        return Path(experiment.work_dir)
    scheme, _, place = experiment.work_dir.partition("://")
    return scratch_dir() / Path("work_dirs", scheme, *place.strip("/").split("/"))


def mirror_uri(experiment: Experiment) -> str | None:
    """The second place of the results: the work dir itself if it is a URI, else a folder of its
    name in checkpoint_config.mirror (as out_dir), if there is one."""
    if "://" in str(experiment.work_dir):
        return experiment.work_dir
    mirror = experiment.checkpoint_config.mirror
    return mirror and f"{mirror.rstrip('/')}/{work_dir_of(experiment).absolute().name}"


def checkpoint_folder(experiment: Experiment) -> Path:
    """Where the .pth files go: the work dir, or a folder of its name in checkpoint_config.out_dir
    (as mmcv does it: experiments that share an out_dir do not overwrite each other's)."""
    work_dir, out_dir = work_dir_of(experiment), experiment.checkpoint_config.out_dir
    return work_dir if out_dir is None else Path(out_dir) / work_dir.absolute().name
