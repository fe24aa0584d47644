"""Reads the files that a report is made from: work dir, evaluation results, dataset."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdpose.config import Experiment, parse_experiment
from sdpose.data.coco import CocoAnnotations, load_annotations
from sdpose.documents import MAX_YAML_BYTES, DocumentError, read_bytes, read_json
from sdpose.errors import UserError
from sdpose.prepare.dataset import unusable_images
from sdpose.report.history import History, read_history
from sdpose.training.paths import BEST, EXPERIMENT_FILE, run_paths

_MAX_RESULTS_BYTES = 2**30  # COCO val2017 with a detector's boxes: 100 MB


@dataclass
class RunFiles:
    """The files of a run. What is missing is None or empty, and `missing` says why."""

    work_dir: Path
    experiment: Experiment
    history: History
    summary: dict[str, Any]  # of the pipeline; empty after `sdpose train` alone
    checkpoint: Path | None
    annotations: CocoAnnotations | None = None
    results: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)  # by what is missing


def gather(
    work_dir: Path,
    *,
    experiment: Experiment | None = None,
    results: Path | None = None,
    checkpoint: Path | None = None,
    summary: dict[str, Any] | None = None,
) -> RunFiles:
    """Reads the files of a run.

    Args:
        results: what `sdpose test --out` wrote; default: the newest in the work dir.
        checkpoint: the one that was evaluated; default: the best of the work dir.
    Raises:
        UserError: this is not a work dir, or `results` cannot be read.
    """
    stored = work_dir / EXPERIMENT_FILE
    if experiment is None:
        if not stored.is_file():
            raise UserError(
                f"{work_dir} is no work dir of a run: it has no {EXPERIMENT_FILE}; give the folder "
                "that `sdpose train` or submit.py named (work_dirs/EXP_NAME)"
            )
        experiment = parse_experiment(read_bytes(stored, MAX_YAML_BYTES), source=str(stored))
    files = RunFiles(
        work_dir=work_dir,
        experiment=experiment,
        history=read_history(work_dir),
        summary=_json_of(work_dir / "summary.json") if summary is None else summary,
        checkpoint=checkpoint or _best_checkpoint(experiment, work_dir),
    )
    if not files.history.train:
        files.missing["history"] = (
            f"{work_dir} has no <timestamp>.log.json with training steps (TextLoggerHook of "
            "log_config.hooks writes them)."
        )
    if files.checkpoint is None:
        files.missing["checkpoint"] = f"No checkpoint is in {work_dir}."
    _read_results(files, results or _newest_results(work_dir))
    _read_annotations(files)
    return files


def _read_results(files: RunFiles, path: Path | None) -> None:
    if path is None:
        files.missing["results"] = (
            "No results of an evaluation are in the work dir. To add what follows from them: "
            f"sdpose test {files.work_dir}/{EXPERIMENT_FILE} {files.checkpoint or 'CHECKPOINT'} "
            f"--out {files.work_dir}/results.json, then make the report again."
        )
        return
    try:
        rows = read_json(path, _MAX_RESULTS_BYTES)
        files.results = [dict(row) for row in rows]
        metrics = read_json(path.with_suffix(".metrics.json"))
        files.settings = dict(metrics.pop("settings", {}))
        files.metrics = dict(metrics)
    except DocumentError:
        raise
    except (ValueError, TypeError, AttributeError):
        raise UserError(
            f"{path} and its .metrics.json are not what `sdpose test --out {path}` writes"
        ) from None


def _read_annotations(files: RunFiles) -> None:
    path = Path(files.experiment.data_root) / files.experiment.data.val.ann_file
    try:
        annotations = load_annotations(path, files.experiment.keypoints)
        files.annotations = annotations.without_images(unusable_images(files.experiment, "val"))
    except UserError as error:
        files.missing["annotations"] = f"The validation set cannot be read here: {error}"


def _newest_results(work_dir: Path) -> Path | None:
    found = [
        path.with_name(path.name.removesuffix(".metrics.json") + ".json")
        for path in work_dir.rglob("*.metrics.json")
    ]
    return max(
        (path for path in found if path.is_file()), key=lambda p: p.stat().st_mtime, default=None
    )


def _best_checkpoint(experiment: Experiment, work_dir: Path) -> Path | None:
    for folder in (work_dir, run_paths(experiment).checkpoints):
        for pattern in (BEST, "latest.pth"):
            if found := sorted(folder.glob(pattern), key=lambda p: p.stat().st_mtime):
                return found[-1]
    return None


def _json_of(path: Path) -> dict[str, Any]:
    try:
        return dict(read_json(path))
    except (TypeError, ValueError):
        return {}
