from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from sdpose.errors import UserError
from sdpose.inference.export import export_onnx, export_program
from sdpose.models import MODELS, SDPose

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(3, 3, 256, 192, generator=torch.Generator().manual_seed(0))


def predictions(model: SDPose, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval().predict(images)


@pytest.mark.parametrize("name", MODELS)
def test_torch_export_for_any_batch(name: str, reference_model, images: Tensor) -> None:
    model = reference_model(name, "fan")
    exported = export_program(model, (192, 256)).module()
    for batch in (images[:1], images):
        torch.testing.assert_close(exported(batch), predictions(model, batch), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
# One of each backbone: with StemNet, T, S-V1 and S-V2 differ in depth and width alone.
@pytest.mark.parametrize("name", ["sdpose_t", "sdpose_b"])
def test_onnx_runtime_agrees(name: str, reference_model, images: Tensor, tmp_path: Path) -> None:
    model = reference_model(name, "fan")
    path = tmp_path / "model.onnx"
    export_onnx(model, path, (192, 256))
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(path)
    assert session.get_inputs()[0].shape == ["batch", 3, 256, 192]
    assert session.get_outputs()[0].shape == ["batch", 17, 64, 48]
    for batch in (images[:1], images):
        (heatmaps,) = session.run(["heatmaps"], {"images": batch.numpy()})
        np.testing.assert_allclose(heatmaps, predictions(model, batch), rtol=0, atol=1e-4)
        assert np.std(heatmaps) > 0.01


def test_without_the_extra_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "meta_path", [])
    monkeypatch.setattr(sys, "path_hooks", [])
    for name in ("onnx", "onnxscript"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(UserError, match=r"pip install .*\[export\]'"):
        export_onnx(MODELS["sdpose_t"](), tmp_path / "model.onnx", (192, 256))
