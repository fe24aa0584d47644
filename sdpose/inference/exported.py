"""Exported files: written with what is needed to use them, checked against PyTorch, and run."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import time
import warnings
from collections.abc import Iterator
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
from sdpose.models import SDPose
from sdpose.models.export import Predictor, export_onnx, export_program
from sdpose.registry.description import describe

Format = Literal["onnx", "torchscript", "exported"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torchscript": ".ts", "exported": ".pt2"}
TOLERANCE = 1e-4  # heatmaps are about 0..1
METADATA = "sdpose.json"  # key or file name of the metadata inside the file


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
    elif format == "exported":
        torch.export.save(export_program(model, image_size), path, extra_files={METADATA: metadata})
    else:
        example = torch.zeros(2, 3, *image_size[::-1])
        with torch.no_grad(), _quiet_jit():
            traced = torch.jit.trace(Predictor(model), (example,), check_trace=False)
            torch.jit.save(traced, str(path), _extra_files={METADATA: metadata})


@contextlib.contextmanager
def _quiet_jit() -> Iterator[None]:
    """Without torch's advice to use torch.export instead: who asked for TorchScript needs it. And
    without the tracer's, to check the result for other batches: `export` does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        yield


def open_exported(path: Path) -> tuple[Runtime, dict[str, Any]]:
    """What computes the file's heatmaps (on the CPU), and its metadata ({} if it has none).
    UserError for a file that is none of the three formats."""
    try:
        if path.suffix == ".onnx":
            return _open_onnx(path)
        extra = {METADATA: ""}
        if path.suffix == ".pt2":
            module: Any = torch.export.load(path, extra_files=extra).module()
        else:
            with _quiet_jit():
                module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
    except UserError:
        raise
    except Exception as error:  # each runtime has errors of its own
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be opened as an exported model: {reason}") from None
    return _Module(module), json.loads(extra[METADATA] or "{}")


def _open_onnx(path: Path) -> tuple[Runtime, dict[str, Any]]:
    if importlib.util.find_spec("onnxruntime") is None:
        raise UserError(f"{path} needs ONNX Runtime: {how_to_install('export')}")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map.get(METADATA, "{}")
    return _Session(session), json.loads(metadata)


class _Module:
    def __init__(self, module: Any) -> None:
        self._module = module

    def predict(self, images_N3HW: Tensor) -> Tensor:
        return self._module(images_N3HW)


class _Session:
    def __init__(self, session: Any) -> None:
        self._session = session

    def predict(self, images_N3HW: Tensor) -> Tensor:
        (heatmaps,) = self._session.run(["heatmaps"], {"images": images_N3HW.cpu().numpy()})
        return torch.from_numpy(np.asarray(heatmaps))


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
