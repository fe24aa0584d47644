"""A model in use: the same joints as the evaluation's, on images, folders and videos."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

import sdpose
from sdpose.cli import cli
from sdpose.config import Experiment
from sdpose.data.coco import load_annotations
from sdpose.errors import UserError
from sdpose.evaluation import evaluate
from sdpose.inference import load
from sdpose.log_setup import log_to


def run(*words: str) -> Any:
    result = CliRunner().invoke(cli, [*words, "--json"], catch_exceptions=True)
    if result.exception:
        raise result.exception
    return json.loads(result.stdout)


def test_joints_are_those_of_the_evaluation(
    coco: Path, experiment: Experiment, checkpoint: Path, tmp_path: Path
) -> None:
    persons = load_annotations(coco / "annotations/person_keypoints_val2017.json").persons()
    rows = zip(persons.image_id.tolist(), persons.boxes_xywh.tolist(), strict=True)
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps([{"image_id": i, "bbox": box} for i, box in rows]))
    done = run(
        *("predict", str(checkpoint), str(coco / "val2017"), "--boxes", str(boxes)),
        *("--out", str(tmp_path / "out")),
    )
    assert done["pictures"] == 6
    assert len(done["drawn"]) == 6
    results = json.loads((tmp_path / "out/results.json").read_text())
    estimator = sdpose.load(checkpoint)
    evaluated = evaluate(estimator.runtime, experiment, device="cpu")  # type: ignore[arg-type]
    ours = np.array([r["keypoints"] for r in results]).reshape(-1, 17, 3)
    # Other batches add up in another order; where heatmaps are flat, DARK makes pixels of that.
    near = [np.abs(ours - pose).max(-1).min(0) < 0.01 for pose in evaluated.keypoints_array]
    assert len(results) >= len(near) > 5
    assert np.mean(near) > 0.95


def test_python_and_bad_input(coco: Path, checkpoint: Path) -> None:
    image = next((coco / "val2017").iterdir())
    estimator = sdpose.load(checkpoint)
    poses = estimator(image, [[10, 10, 60, 120], [30, 5, 50, 90]], box_scores=[1.0, 0.5])
    assert poses.keypoints.shape == (2, 17, 3)
    assert poses.scores.shape == (2,)
    alone = estimator(image, [[30, 5, 50, 90]])
    np.testing.assert_allclose(alone.keypoints[0], poses.keypoints[1], atol=1e-3)
    assert estimator(image, []).keypoints.shape == (0, 17, 3)
    assert len(estimator(image).boxes) == 1
    for wrong in ([[1, 2, 3]], [[0, 0, 0, 10]], [1, 2, 3, 4]):
        with pytest.raises(UserError, match="boxes must be"):
            estimator(image, wrong)
    with pytest.raises(UserError, match="expected uint8"):
        estimator(np.zeros((4, 4)))
    with pytest.raises(UserError, match="weights not found"):
        sdpose.load("nowhere.pth")


def test_importing_sdpose_is_cheap() -> None:
    code = "import sdpose, sys; print({'torch', 'numpy', 'cv2'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


LOAD = """
import sys, sdpose
sdpose.load(sys.argv[1])
print({"torch._dynamo", "sympy", "mlflow", "scipy", "tensorboard"} & set(sys.modules))
"""


@pytest.mark.slow
def test_loading_a_model_imports_no_compiler(checkpoint: Path) -> None:
    """torch.compile's modules, and SymPy, take 3 s of CPU."""
    result = subprocess.run(
        [sys.executable, "-c", LOAD, checkpoint], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


def test_video(coco: Path, checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "walk.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (96, 64))
    for shade in range(5):
        writer.write(np.full((64, 96, 3), 40 * shade, np.uint8))
    writer.release()
    done = run("predict", str(checkpoint), str(path), "--out", str(tmp_path / "out"))
    assert (done["pictures"], done["persons"]) == (5, 5)
    drawn = cv2.VideoCapture(str(tmp_path / "out/walk.mp4"))
    assert drawn.get(cv2.CAP_PROP_FRAME_COUNT) == 5
    with pytest.raises(UserError, match="would replace"):
        run("predict", str(checkpoint), str(path), "--out", str(tmp_path))
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps([{"image_id": 3, "bbox": [1, 1, 30, 60], "score": 0.5}]))
    words = ("predict", str(checkpoint), str(path), "--boxes", str(boxes), "--no-draw")
    assert run(*words, "--out", str(tmp_path / "boxed"))["persons"] == 1
    assert not (tmp_path / "boxed/walk.mp4").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format_", ["onnx", "torchscript", "exported"])
def test_export_is_checked_and_runs(
    coco: Path, checkpoint: Path, tmp_path: Path, format_: str
) -> None:
    suffix = {"onnx": ".onnx", "torchscript": ".ts", "exported": ".pt2"}[format_]
    path = tmp_path / f"small{suffix}"
    done = run("export", str(checkpoint), "--format", format_, "--out", str(path))
    assert done["max_error"] < 1e-4
    assert list(done["latency"]) == ["1", "8", "32"]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    image = next((coco / "val2017").iterdir())
    exported, original = sdpose.load(path), sdpose.load(checkpoint)
    # DARK is discontinuous where heatmaps are nearly flat; scores are not.
    assert np.abs(exported(image).scores - original(image).scores).max() < 1e-4
    assert exported.experiment == original.experiment


def test_registry_models_and_their_files(
    checkpoint: Path, coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDPOSE_REGISTRY", str(tmp_path / "registry"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    figures = tmp_path / "figures.json"
    figures.write_text('{"AP": 0.5}')
    run("registry", "register", "small", str(checkpoint), "--metrics", str(figures))
    run("registry", "promote", "small", "1", "--channel", "production")
    pulled = tmp_path / "device/model.safetensors"
    run("registry", "pull", "small@production", str(pulled))
    image = next((coco / "val2017").iterdir())
    expected = sdpose.load(checkpoint)(image).keypoints
    for model in ("registry://small/production", "registry://small/1", pulled):
        np.testing.assert_array_equal(sdpose.load(model)(image).keypoints, expected)
    said: list[str] = []
    with log_to(said.append, ["sdpose.inference"]):
        load("registry://small/production")
    assert [text.partition(" tensors")[0].rpartition(": ")[0] for text in said] == [
        "registry://small/production"
    ]
    with pytest.raises(UserError, match="staging is empty"):
        sdpose.load("registry://small/staging")
    pulled.with_name("model.safetensors.json").unlink()
    with pytest.raises(UserError, match="give --exp"):
        sdpose.load(pulled)
