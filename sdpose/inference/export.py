"""Models for other runtimes: `torch.export` programs and ONNX files of `SDPose.predict`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from sdpose.errors import UserError, how_to_install
from sdpose.models.sdpose import SDPose


def _dynamic_shapes() -> dict[str, dict[int, Dim]]:
    """Any batch. Not a constant: Dim() imports SymPy, a second for everyone who loads a model."""
    return {"images_N3HW": {0: Dim("batch")}}


class Predictor(nn.Module):
    """`SDPose.predict` as a module's forward, which is what exporters trace."""

    def __init__(self, model: SDPose) -> None:
        super().__init__()
        self.model = model

    def forward(self, images_N3HW: Tensor) -> Tensor:
        return self.model.predict(images_N3HW)


def export_program(model: SDPose, image_size: tuple[int, int]) -> ExportedProgram:
    """The graph of `model.predict` for any batch; `image_size` is (width, height). Puts the
    model into eval mode.

    Input: normalised RGB (N, 3, height, width) float32. Output: heatmaps (N, K, h, w).
    """
    return torch.export.export(
        Predictor(model).eval(), (_example(model, image_size),), dynamic_shapes=_dynamic_shapes()
    )


def export_onnx(model: SDPose, path: str | Path, image_size: tuple[int, int]) -> None:
    """Writes `model.predict` as one ONNX file: input "images", output "heatmaps", any batch.

    Puts the model into eval mode. Shapes as in `export_program`. Raises `UserError` if the extra
    [export] is not installed.
    """
    needed = ("onnx", "onnxscript")
    absent = [name for name in needed if importlib.util.find_spec(name) is None]
    if absent:
        needs = " and ".join(absent)
        raise UserError(f"ONNX export needs {needs}: {how_to_install('export')}")
    program = torch.onnx.export(
        Predictor(model).eval(),
        (_example(model, image_size),),
        dynamic_shapes=_dynamic_shapes(),
        input_names=["images"],
        output_names=["heatmaps"],
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.save(path, external_data=False)


def _example(model: SDPose, image_size: tuple[int, int]) -> Tensor:
    # Two images: a batch of one would be taken for a constant.
    return torch.zeros(2, 3, *image_size[::-1], device=model.keypoint_tokens.device)
