"""Evaluating one checkpoint, in one process or under torchrun (`sdpose test`)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from sdpose.config import Experiment
from sdpose.data.progress import ConsoleProgress
from sdpose.evaluation import EvaluationResult, evaluate
from sdpose.models import load_model
from sdpose.training.distributed import leave_cores_to_workers, process_group


def test_checkpoint(
    experiment: Experiment,
    checkpoint: Path,
    *,
    missing_detections: Literal["fail", "use_gt_bbox"] = "fail",  # noqa: PT028 (no pytest test)
) -> EvaluationResult | None:
    """The result on the experiment's validation set; None on all ranks but the first.

    checkpoint: any file that `load_weights` reads. Raises UserError if it does not fit the
    experiment's model, or the boxes' file is missing (unless data_cfg.use_gt_bbox, or
    missing_detections says to take ground-truth boxes then).
    """
    leave_cores_to_workers(experiment.data.workers_per_gpu)
    with process_group() as world, ConsoleProgress("evaluating", "boxes") as progress:
        model = load_model(experiment.model, checkpoint)
        result = evaluate(
            model.to(world.device),
            experiment,
            device=world.device,
            missing_detections=missing_detections,
            progress=progress if world.is_main else None,
        )
        return result if world.is_main else None
