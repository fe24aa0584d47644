"""The starting point of a run, and the checks that it can continue from there."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sdpose.config import Experiment
from sdpose.errors import UserError
from sdpose.models import LoadReport, SDPose
from sdpose.models.transfer import check_skeleton, transfer_weights
from sdpose.models.weights import apply_backbone_weights, read_checkpoint
from sdpose.training.checkpoint import Checkpoint, training_weights
from sdpose.training.meters import Progress

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """The starting point of a run."""

    checkpoint: Checkpoint | None = None
    """To continue; None: from the first iteration."""
    path: Path | None = None
    """Its file."""
    same_run: bool = False
    """The work dir holds an earlier part of this very run."""


def is_finished(experiment: Experiment, start: Start) -> bool:
    if start.checkpoint is None:
        return False
    progress = Progress.of(start.checkpoint["meta"])
    ends = progress.epoch >= experiment.total_epochs or bool(progress.stopped)
    return ends and progress.evaluated_epoch == progress.epoch


def check_fits(experiment: Experiment, start: Start, model: SDPose) -> LoadReport | None:
    """Check that model and optimizer can continue from the checkpoint, by loading it.

    Without a checkpoint it checks that `load_from`, or else `pretrained`, fits the model.

    Args:
        model: of the experiment; changed in place.
    Returns:
        The report on `load_from` or `pretrained`, if one of them was loaded.
    Raises:
        UserError: model or optimizer do not fit.
    """
    if start.checkpoint is None:
        if path := experiment.load_from:
            return transfer_weights(model, path, experiment.keypoints)
        if path := experiment.model.pretrained:
            return apply_backbone_weights(model, path, read_checkpoint(path)[0])
        return None
    assert start.path is not None
    check_skeleton(start.path, start.checkpoint["meta"], experiment.keypoints)
    try:
        model.load_state_dict(training_weights(start.checkpoint))
    except RuntimeError as error:
        differing = [line.strip() for line in str(error).splitlines()[1:8]]
        raise UserError(
            f"{start.path} is of another model: "
            + "\n  ".join(differing)
            + "\n  correct resume_from or the model; --load-from takes weights that fit"
        ) from None
    _check_shapes(start, model)
    theirs = _optimizer_of(start.checkpoint["optimizer"])
    ours = "SGD" if experiment.optimizer.type == "SGD" else "Adam"  # AdamW keeps the same
    if theirs is not None and theirs != ours:
        raise UserError(
            f"{start.path} was trained with {theirs} and cannot be continued with "
            f"{experiment.optimizer.type}, which keeps other values; to begin with its weights: "
            f"--load-from {start.path}"
        )
    return None


def _check_shapes(start: Start, model: SDPose) -> None:
    """Check the shapes of the optimizer's state; torch would fail in the first step only."""
    assert start.checkpoint is not None
    shapes = [parameter.shape for parameter in model.parameters()]
    for number, values in start.checkpoint["optimizer"]["state"].items():
        expected = shapes[number] if 0 <= number < len(shapes) else None
        for name, value in values.items():
            if not isinstance(value, Tensor) or value.ndim == 0:
                continue
            if value.shape != expected:
                raise UserError(
                    f"{start.path}: the optimizer's {name} {number} is {tuple(value.shape)}, the "
                    f"model's parameter is {expected and tuple(expected)}: it is of another model. "
                    f"To begin with its weights: --load-from {start.path}"
                )


def _optimizer_of(state: dict[str, Any]) -> str | None:
    """The kind of optimizer that saved a state; None: every kind can continue from it."""
    names = {name for values in state.get("state", {}).values() for name in values}
    return "Adam" if "exp_avg" in names else "SGD" if "momentum_buffer" in names else None


def check_same_data(experiment: Experiment, start: Start, dataset_digest: str) -> None:
    """Check that the checkpoint was trained on this dataset; with `resume_from` only log it.

    Raises:
        UserError: it was trained on another dataset, and `resume_from` is not set.
    """
    meta = start.checkpoint["meta"] if start.checkpoint is not None else {}
    before = meta.get("dataset_digest", dataset_digest)
    if before == dataset_digest:
        return
    change = f"the dataset's digest was {before[:12]} and is {dataset_digest[:12]} now"
    if experiment.resume_from:
        logger.info(f"{start.path} was trained on other data: {change}")
        return
    raise UserError(
        f"{start.path} was trained on other data: {change}; nothing is changed.\n  Bring the data "
        "back (data_root, data.*; `sdpose prepare` shows the digest),\n  choose --work-dir DIR (or "
        "another exp_name) for a new run,\n  --resume-from auto to continue with the new data "
        "anyway, or --overwrite to start over."
    )
