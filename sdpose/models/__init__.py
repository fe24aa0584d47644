"""Build the model of an experiment from its `model` section."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from sdpose.config.schema import COCO, Model, Skeleton
from sdpose.errors import UserError
from sdpose.models.hrnet import HRNet3Stage
from sdpose.models.load_report import LoadReport
from sdpose.models.sdpose import CycleOutput, SDPose, sdpose_b, sdpose_s_v1, sdpose_s_v2, sdpose_t
from sdpose.models.stemnet import StemNet
from sdpose.models.transfer import check_skeleton
from sdpose.models.weights import (
    apply_weights,
    check_weights,
    convert_weights,
    load_backbone_weights,
    load_weights,
    read_checkpoint,
    warn_unless_complete,
)

__all__ = [
    "BACKBONES",
    "MODELS",
    "CycleOutput",
    "LoadReport",
    "SDPose",
    "build_model",
    "convert_weights",
    "load_backbone_weights",
    "load_model",
    "load_model_with_report",
    "load_weights",
]

# The official models with explicit numbers. Experiments state the same as differences from a base.
MODELS: dict[str, Callable[[], SDPose]] = {
    "sdpose_t": sdpose_t,
    "sdpose_s_v1": sdpose_s_v1,
    "sdpose_s_v2": sdpose_s_v2,
    "sdpose_b": sdpose_b,
}

BACKBONES: dict[str, type[StemNet]] = {"StemNet": StemNet, "HRNet_3stage": HRNet3Stage}


def build_model(
    config: Model, num_keypoints: int = COCO.num_keypoints, *, initialise: bool = True
) -> SDPose:
    """Build the model of an experiment, initialised from torch's global generator.

    Args:
        config: `load_experiment(name).model`; `pretrained` is ignored (`load_backbone_weights`).
        num_keypoints: of the experiment's skeleton.
        initialise: False if all weights are loaded afterwards: they are undefined until then, and
            building SDPose-B takes a quarter of the time.
    Raises:
        UserError: there is not enough memory.
    """
    try:
        return _build(config, num_keypoints, initialise)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate" not in str(error):
            raise
        raise UserError(
            "the model does not fit in this machine's memory: lower model.backbone.width, or dim, "
            "depth or heatmap_size of model.keypoint_head.tokenpose_cfg"
        ) from None


def _build(config: Model, num_keypoints: int, initialise: bool) -> SDPose:
    backbone, head = config.backbone, config.keypoint_head.tokenpose_cfg
    assert backbone.width is not None  # the schema fills it in
    return SDPose(
        num_keypoints=num_keypoints,
        backbone=BACKBONES[backbone.type](width=backbone.width, num_blocks=backbone.num_blocks),
        feature_size=head.feature_size,
        heatmap_size=head.heatmap_size,
        patch_size=head.patch_size,
        dim=head.dim,
        depth=head.depth,
        heads=head.heads,
        mlp_ratio=head.mlp_ratio,
        pos_embedding_type=head.pos_embedding_type,
        cycle_num=head.cycle_num,
        initialise=initialise,
    )


def load_model(config: Model, path: str | Path, skeleton: Skeleton = COCO) -> SDPose:
    """As `load_model_with_report`; a Python warning names tensors of the file that are not used."""
    model, report = load_model_with_report(config, path, skeleton)
    warn_unless_complete(path, report)
    return model


def load_model_with_report(
    config: Model, path: str | Path, skeleton: Skeleton = COCO, *, name: str | None = None
) -> tuple[SDPose, LoadReport]:
    """Build the model of an experiment and load all its weights from a file.

    Args:
        path: the file, of any layout that `read_checkpoint` reads.
        skeleton: of the experiment.
        name: the file's name in messages; default: its path.
    Raises:
        UserError: the file holds no weights, or those of another model or skeleton. This is
            checked before memory is allocated: neither experiment nor file may be trusted.
    """
    state, meta = read_checkpoint(path)
    check_skeleton(name or path, meta, skeleton)
    num_keypoints = skeleton.num_keypoints
    with torch.device("meta"):
        check_weights(build_model(config, num_keypoints, initialise=False), name or path, state)
    model = build_model(config, num_keypoints, initialise=False)
    return model, apply_weights(model, name or path, state, meta)
