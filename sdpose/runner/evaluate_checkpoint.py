"""Evaluating one checkpoint, in one process or under torchrun (`sdpose test`)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from sdpose.config import Experiment
from sdpose.data.auto_skeleton import with_skeleton
from sdpose.errors import UserError
from sdpose.evaluation import EvaluationResult, evaluate
from sdpose.models import load_model_with_report
from sdpose.models.transfer import with_skeleton_of
from sdpose.models.weights import read_checkpoint
from sdpose.prepare.dataset import prepare_coco, unusable_images
from sdpose.progress_bar import ConsoleProgress
from sdpose.runner.process_group import leave_cores_to_workers, process_group
from sdpose.training.distributed import PREPARE_TIMEOUT, on_main

log = logging.getLogger(__name__)


def evaluate_checkpoint(
    experiment: Experiment,
    checkpoint: Path,
    *,
    missing_detections: Literal["fail", "use_gt_bbox"] = "fail",
    dataset_digest: str | None = None,
) -> EvaluationResult | None:
    """The result on the experiment's validation set; None on all ranks but the first.

    checkpoint: any file that `load_weights` reads. Raises UserError if it does not fit the
    experiment's model, or the boxes' file is missing (unless data_cfg.use_gt_bbox, or
    missing_detections says to take ground-truth boxes then), or the dataset is not the one of
    `dataset_digest`.
    """
    leave_cores_to_workers(experiment.data.workers_per_gpu)
    with process_group() as world, ConsoleProgress("evaluating", "boxes") as progress:
        experiment = on_main(
            world, lambda: _with_skeleton(experiment, checkpoint), timeout=PREPARE_TIMEOUT
        )
        if dataset_digest is not None:
            on_main(world, lambda: _check_data(experiment, dataset_digest), timeout=PREPARE_TIMEOUT)
        model, loaded = load_model_with_report(experiment.model, checkpoint, experiment.keypoints)
        if world.is_main:
            log.info(f"{checkpoint}: {loaded.summary()}")
        result = evaluate(
            model.to(world.device),
            experiment,
            device=world.device,
            skip_images=on_main(
                world, lambda: unusable_images(experiment, "val"), timeout=PREPARE_TIMEOUT
            ),
            missing_detections=missing_detections,
            progress=progress if world.is_main else None,
        )
        return result if world.is_main else None


def _with_skeleton(experiment: Experiment, checkpoint: Path) -> Experiment:
    if experiment.skeleton is None:
        experiment = with_skeleton_of(experiment, checkpoint, read_checkpoint(checkpoint)[1])
    return with_skeleton(experiment)


def _check_data(experiment: Experiment, dataset_digest: str) -> None:
    found = prepare_coco(experiment, with_pack=False).digest
    if found != dataset_digest:
        raise UserError(
            f"{Path(experiment.data_root).absolute()} is not the dataset that was checked: its "
            f"digest was {dataset_digest[:12]} and is {found[:12]} now, so that the figures would "
            "be those of other data. Bring the data back, or start again from the first step"
        )
