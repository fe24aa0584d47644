"""Exported files: written with what is needed to use them, checked against PyTorch, and run.

.pt2 and .ts files are programs: opening or running one runs whatever code its author put into it
(pickles in a .pt2; a .ts writes files). They are opened if the caller trusts them, or if this
process has written them. An .onnx file is data.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sdpose.config import Experiment, dump_experiment
from sdpose.errors import UserError, how_to_install
from sdpose.inference.estimator import Runtime
from sdpose.inference.export import Predictor, export_onnx, export_program
from sdpose.models import SDPose
from sdpose.registry.model_description import describe

Format = Literal["onnx", "torchscript", "exported"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torchscript": ".ts", "exported": ".pt2"}
PROGRAMS = frozenset({".ts", ".pt2"})
TOLERANCE = 1e-4  # heatmaps are about 0..1
METADATA = "sdpose.json"  # key or file name of the metadata inside the file

# SHA-256 of the programs that this process has written.
_written: set[str] = set()


@dataclass(frozen=True)
class Exported:
    path: Path
    max_error: float
    """Largest difference of a heatmap value from PyTorch's, over batches of 1 and 3."""
    latency_ms: dict[int, tuple[float, float]]
    """By batch: median milliseconds a batch in PyTorch and in the exported file."""
    threads: int


def export(model: SDPose, experiment: Experiment, format: Format, path: Path) -> Exported:
    """Writes `model.predict` for another runtime, with a description inside, and checks it.

    Input: "images", normalised RGB float32 (N, 3, H, W); output: "heatmaps". Any batch.
    Raises UserError, and leaves no file, if its heatmaps differ from PyTorch's by more than 1e-4.
    """
    model = model.cpu().eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}.unfinished{SUFFIXES[format]}")
    metadata = json.dumps({"experiment": dump_experiment(experiment), **describe(experiment)})
    try:
        _write(model, experiment, format, unfinished, metadata)
        runtime, _ = open_exported(unfinished)
        width, height = experiment.data_cfg.image_size
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(32, 3, height, width, generator=generator)
        errors = [_difference(model, runtime, images[:batch]) for batch in (1, 3)]
        if not max(errors) <= TOLERANCE:
            raise UserError(
                f"{path} was not written: its heatmaps differ from PyTorch's by {max(errors):.1e}, "
                f"more than {TOLERANCE:.0e}"
            )
        latency = {
            batch: (_milliseconds(model, images[:batch]), _milliseconds(runtime, images[:batch]))
            for batch in (1, 8, 32)
        }
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return Exported(path, max(errors), latency, torch.get_num_threads())


def _write(
    model: SDPose, experiment: Experiment, format: Format, path: Path, metadata: str
) -> None:
    image_size = experiment.data_cfg.image_size
    if format == "onnx":
        export_onnx(model, path, image_size)
        import onnx

        content = onnx.load(path)
        onnx.helper.set_model_props(content, {METADATA: metadata})
        onnx.save(content, path)
    else:
        content = io.BytesIO()
        if format == "exported":
            program = export_program(model, image_size)
            torch.export.save(program, content, extra_files={METADATA: metadata})
        else:
            example = torch.zeros(2, 3, *image_size[::-1])
            with torch.no_grad(), _quiet_jit():
                traced = torch.jit.trace(Predictor(model), (example,), check_trace=False)
                torch.jit.save(traced, content, _extra_files={METADATA: metadata})
        _written.add(hashlib.sha256(content.getbuffer()).hexdigest())
        path.write_bytes(content.getbuffer())


@contextlib.contextmanager
def _quiet_jit() -> Iterator[None]:
    """Without torch's advice to use torch.export instead: who asked for TorchScript needs it. And
    without the tracer's, to check the result for other batches: `export` does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        yield


def open_exported(path: Path, *, trust: bool = False) -> tuple[ExportedModel, dict[str, Any]]:
    """What computes the file's heatmaps (on the CPU), and its metadata ({} if it has none).

    Args:
        trust: open a .pt2 or .ts file that this process has not written.
    Raises:
        UserError: the file is no model of the three formats, or a program that is not trusted.
    """
    try:
        if path.suffix.lower() not in PROGRAMS:
            return _open_onnx(path)
        # Read once: what is judged is what is opened, whoever replaces the file meanwhile.
        content = path.read_bytes()
        if not trust and hashlib.sha256(content).hexdigest() not in _written:
            raise UserError(_untrusted(path))
        return _open_program(path, io.BytesIO(content))
    except UserError:
        raise
    except Exception as error:  # each runtime has errors of its own
        raise UserError(
            f"{path} cannot be opened as an exported model: {_on_one_line(error)}"
        ) from None


def _untrusted(path: Path) -> str:
    return (
        f"{path} is a program: opening it can run any code of whoever made it. Use a format that "
        "holds data alone (.onnx, .safetensors, .pth). If you made the file yourself, or trust "
        "whoever did as you trust their code, give --trust (in Python: trust=True)"
    )


def _open_program(path: Path, content: io.BytesIO) -> tuple[ExportedModel, dict[str, Any]]:
    extra: dict[str, Any] = {METADATA: ""}
    if path.suffix.lower() == ".pt2":
        module: Any = torch.export.load(content, extra_files=extra).module()
    else:
        with _quiet_jit():
            module = torch.jit.load(content, map_location="cpu", _extra_files=extra)
    return ExportedModel(path, module), _metadata(extra[METADATA], path)


def _open_onnx(path: Path) -> tuple[ExportedModel, dict[str, Any]]:
    if importlib.util.find_spec("onnxruntime") is None:
        raise UserError(f"{path} needs ONNX Runtime: {how_to_install('export')}")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(images_N3HW: Tensor) -> Tensor:
        (heatmaps,) = session.run(["heatmaps"], {"images": images_N3HW.cpu().numpy()})
        return torch.from_numpy(np.asarray(heatmaps))

    text = session.get_modelmeta().custom_metadata_map.get(METADATA, "")
    return ExportedModel(path, run), _metadata(text, path)


def _metadata(text: str | bytes, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(text or "{}")
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path}: its description ({METADATA}) is damaged; export the model again")
    return content


class ExportedModel:
    """Heatmaps of an opened file; whatever it answers is checked."""

    def __init__(self, path: Path, run: Callable[[Tensor], Any]) -> None:
        self._path = path
        self._run = run
        self.num_keypoints: int | None = None  # that are expected; None: any number

    def predict(self, images_N3HW: Tensor) -> Tensor:
        try:
            heatmaps = self._run(images_N3HW)
        except Exception as error:  # each runtime has errors of its own
            raise UserError(
                f"{self._path} failed on images of shape {list(images_N3HW.shape)}: "
                f"{_on_one_line(error)}"
            ) from None
        count, joints = len(images_N3HW), self.num_keypoints
        if (
            not isinstance(heatmaps, Tensor)
            or heatmaps.ndim != 4
            or len(heatmaps) != count
            or joints not in (None, heatmaps.shape[1])
        ):
            found = list(heatmaps.shape) if isinstance(heatmaps, Tensor) else type(heatmaps)
            raise UserError(
                f"{self._path} is no model of this kind: expected heatmaps of shape "
                f"(N, {joints or 'keypoints'}, h, w), got {found}"
            )
        return heatmaps


def _on_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _difference(model: SDPose, runtime: Runtime, images: Tensor) -> float:
    with torch.inference_mode():
        return float((model.predict(images) - runtime.predict(images)).abs().max())


def _milliseconds(runtime: Runtime, images: Tensor) -> float:
    times = []
    with torch.inference_mode():
        for _ in range(6):
            started = time.perf_counter()
            runtime.predict(images)
            times.append(1000 * (time.perf_counter() - started))
    return median(times[1:])
