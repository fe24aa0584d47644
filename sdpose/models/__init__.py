"""Architectures: from an experiment's model section to a module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from sdpose.config.schema import Model
from sdpose.errors import UserError
from sdpose.models.hrnet import HRNet3Stage
from sdpose.models.load_report import LoadReport
from sdpose.models.sdpose import CycleOutput, SDPose, sdpose_b, sdpose_s_v1, sdpose_s_v2, sdpose_t
from sdpose.models.stemnet import StemNet
from sdpose.models.weights import (
    Say,
    apply_weights,
    check_weights,
    convert_weights,
    load_backbone_weights,
    load_weights,
    read_checkpoint,
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
    "load_weights",
]

# The official models, every number named. Experiments say the same as differences from one base.
MODELS: dict[str, Callable[[], SDPose]] = {
    "sdpose_t": sdpose_t,
    "sdpose_s_v1": sdpose_s_v1,
    "sdpose_s_v2": sdpose_s_v2,
    "sdpose_b": sdpose_b,
}

BACKBONES: dict[str, type[StemNet]] = {"StemNet": StemNet, "HRNet_3stage": HRNet3Stage}


def build_model(config: Model, initialise: bool = True) -> SDPose:
    """The model of an experiment (`load_experiment(name).model`), freshly initialised.

    Draws from torch's global generator. `config.pretrained` is not read here
    (`load_backbone_weights`). initialise: False where all weights are loaded next; they have
    values of no meaning then, and SDPose-B is built in a quarter of the time. Raises UserError if
    there is not enough memory.
    """
    try:
        return _build(config, initialise)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate" not in str(error):
            raise
        raise UserError(
            "the model does not fit in this machine's memory: lower model.backbone.width, or dim, "
            "depth or heatmap_size of model.keypoint_head.tokenpose_cfg"
        ) from None


def _build(config: Model, initialise: bool) -> SDPose:
    backbone, head = config.backbone, config.keypoint_head.tokenpose_cfg
    assert backbone.width is not None  # the schema fills it in
    return SDPose(
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


def load_model(
    config: Model, path: str | Path, *, name: str | None = None, say: Say | None = None
) -> SDPose:
    """The model of an experiment with all weights from a file.

    Args:
        name: what messages call the file, if not by its path.
        say: as for `load_weights`.
    Raises:
        UserError: the file holds no weights, or those of another model. That is found before
            memory is allocated: experiment and file may both be a stranger's.
    """
    state, meta = read_checkpoint(path)
    with torch.device("meta"):
        check_weights(build_model(config, initialise=False), name or path, state)
    model = build_model(config, initialise=False)
    apply_weights(model, name or path, state, meta, say=say)
    return model
