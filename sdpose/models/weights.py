"""Checkpoints: our own, safetensors, the official SDPose's, and backbones alone.

Files are never unpickled as code: `torch.load` runs with `weights_only`.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy._core import multiarray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from sdpose.errors import UserError
from sdpose.files import atomic_file
from sdpose.models.names import official_name, our_name
from sdpose.models.sdpose import SDPose
from sdpose.printable import printable_line

CHECKPOINT_FORMAT = "sdpose/1"

# mmcv stores the best AP in `meta` as a numpy scalar. These can be read without running code.
_SAFE_GLOBALS: list[Any] = [
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    np.dtypes.Int64DType,
    (multiarray.scalar, "numpy.core.multiarray.scalar"),
    (multiarray.scalar, "numpy._core.multiarray.scalar"),
]
_NAMES_IN_ERRORS = 20


@dataclass(frozen=True)
class LoadReport:
    """What became of every tensor, by our names (unexpected ones that have none: the file's)."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    """Of the model, not in the file."""
    unexpected: tuple[str, ...]
    """In the file, not of the model."""
    misshapen: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    """In both; (shape in the file, shape in the model)."""
    meta: dict[str, Any] = field(default_factory=dict)
    """The file's `meta`, if it has one."""


def load_weights(model: nn.Module, path: str | Path, strict: bool = True) -> LoadReport:
    """Loads the file's tensors into `model`, whatever the layout (see `read_checkpoint`).

    Missing or misshapen tensors raise `UserError` and leave the model untouched; with
    `strict=False` they keep their values in the model, and a warning counts and names them.
    Tensors of the file that the model does not have are reported and warned about.
    """
    state, meta = read_checkpoint(path)
    return apply_weights(model, path, state, meta, strict=strict)


def apply_weights(
    model: nn.Module,
    path: str | Path,
    state: Mapping[str, Tensor],
    meta: dict[str, Any],
    *,
    strict: bool = True,
) -> LoadReport:
    """`load_weights` with what `read_checkpoint` has read from `path`."""
    if strict:
        check_weights(model, path, state)
    report = replace(_compare(state, model.state_dict()), meta=meta)
    model.load_state_dict({name: state[name] for name in report.loaded}, strict=False)
    if report.missing or report.misshapen or report.unexpected:
        _warn(path, report, _describe(report), stacklevel=4)
    return report


def check_weights(model: nn.Module, path: str | Path, state: Mapping[str, Tensor]) -> None:
    """Raises UserError if a tensor of the model is missing or has another shape in the file."""
    report = _compare(state, model.state_dict())
    if report.missing or report.misshapen:
        raise UserError(
            f"{path} does not fit the model: {_counts(report)}:\n"
            + "\n".join(_shortened(_describe(report)))
            + "\nis it a checkpoint of this experiment (backbone, depth, patch_size, dim)?"
        )


def load_backbone_weights(model: SDPose, path: str | Path) -> LoadReport:
    """Starts the backbone from a file (ImageNet HRNet-W32, say): the key `model.pretrained`.

    What the file lacks or has in another shape stays at its initial value, with a warning that
    counts and names it. For SDPose-B and HRNet-W32 that is all of layer1 and transition1: its
    first stage has 32 channels, HRNet-W32's has 64. As in the official code, a backbone that is
    loaded is initialised by PyTorch's default distributions, not by N(0, 0.001).

    The report is about the backbone alone. Raises `UserError` if nothing of the file fits.
    """
    file_state, _ = read_checkpoint(path)
    state = {name: tensor for name, tensor in file_state.items() if name.startswith("backbone.")}
    expected = {f"backbone.{name}": v for name, v in model.backbone.state_dict().items()}
    report = _compare(state, expected)
    if not report.loaded:
        raise UserError(
            f"{path} holds no tensor that fits the backbone (model.pretrained); "
            f"it has {_first(tuple(file_state))}, the backbone {_first(tuple(expected))}"
        )
    for module in model.backbone.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.reset_parameters()
    model.load_state_dict({name: state[name] for name in report.loaded}, strict=False)
    if report.missing or report.misshapen:
        kept = [*report.missing, *report.misshapen]
        official = sorted({(official_name(name) or name).split(".")[1] for name in kept})
        _warn(
            path,
            report,
            [*_describe(report), f"these parts start untrained, wholly or partly: {official}"],
        )
    return report


def convert_weights(
    source: Path, target: Path, layout: Literal["official", "sdpose"] | None = None
) -> None:
    """Writes the tensors of `source` to `target`, bit for bit, under the names of `layout`.

    Default: ours from official ones, official from ours. Any layout is read; the suffix of `target`
    (.pth or .safetensors) decides the file format. From .pth to .pth `meta` goes along; the
    optimizer does not. `target` appears when complete.
    """
    if target.suffix not in {".pth", ".safetensors"}:
        raise UserError(f"{target}: the suffix must be .pth or .safetensors")
    found, meta = _read_tensors(source)
    state = _under_our_names(found)
    if layout is None:
        layout = "official" if state.keys() == found.keys() else "sdpose"
    unknown = [name for name in state if official_name(name) is None]
    if unknown:
        raise UserError(
            f"{source} holds tensors that are no part of an SDPose model: {_first(unknown)}"
        )
    meta = {key: value for key, value in meta.items() if key != "format"}
    if layout == "official":
        state = {official_name(name) or name: tensor for name, tensor in state.items()}
    else:
        meta["format"] = CHECKPOINT_FORMAT
    if not target.parent.is_dir():
        raise UserError(f"cannot write {target}: no such folder: {target.parent}")
    with atomic_file(target) as file:
        if target.suffix == ".pth":
            torch.save({"state_dict": state, "meta": meta}, file)
        else:
            file.write(save({name: t.contiguous() for name, t in state.items()}))


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file under our names (CPU), and its `meta` if any.

    Reads .safetensors and torch files, the latter with the tensors under `state_dict` or at top
    level; names with or without `module.`; official, official without `backbone.`, or ours.
    """
    state, meta = _read_tensors(Path(path))
    return _under_our_names(state), meta


def _under_our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {our_name(name) or name: tensor for name, tensor in state.items()}


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors under the file's own names, less `module.`, and its `meta`."""
    if not path.is_file():
        raise UserError(f"weights not found: {path}")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else read_torch_file(path)
    state = content.get("state_dict", content)
    meta = content.get("meta", {})
    if not isinstance(state, Mapping) or not state:
        raise UserError(f"{path} holds no weights: expected tensors by name under 'state_dict'")
    others = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if others:
        raise UserError(
            f"{path} holds no weights: these entries are no tensors: {_first(others)}; "
            "expected tensors by name under 'state_dict'"
        )
    tensors = {str(name).removeprefix("module."): tensor for name, tensor in state.items()}
    return tensors, meta if isinstance(meta, dict) else {}


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


def read_torch_file(path: Path) -> dict[str, Any]:
    """What `torch.save` wrote: a dict of tensors and plain values. UserError for anything else."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    with file, torch.serialization.safe_globals(_SAFE_GLOBALS):
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise UserError(
                f"{path} was refused: it is damaged, or it holds Python objects beside tensors "
                f"and plain values, and reading those can run code{_culprit(error)}. If you trust "
                "it, save its state_dict alone"
            ) from None
        # A damaged file can fail anywhere in the decoder, so in any way.
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{path} is not a readable checkpoint; it may be damaged or cut short: {reason}"
            ) from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no weights: expected a dict, found {type(content).__name__}")
    return content


def _culprit(error: pickle.UnpicklingError) -> str:
    """What torch's long explanation names: `GLOBAL posix.system` and the like."""
    _, found, rest = str(error).partition("GLOBAL ")
    return f" (it names {rest.split()[0]})" if found else ""


def _compare(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> LoadReport:
    misshapen = {
        name: (tuple(state[name].shape), tuple(tensor.shape))
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    }
    return LoadReport(
        loaded=tuple(n for n in expected if n in state and n not in misshapen),
        missing=tuple(n for n in expected if n not in state),
        unexpected=tuple(n for n in state if n not in expected),
        misshapen=misshapen,
    )


def _describe(report: LoadReport) -> list[str]:
    lines = [f"  missing in the file: {name}" for name in report.missing]
    lines += [
        f"  of another shape: {name} (file {list(found)}, model {list(wanted)})"
        for name, (found, wanted) in report.misshapen.items()
    ]
    return lines + [
        f"  unknown to the model: {printable_line(name):.200}" for name in report.unexpected
    ]


def _shortened(lines: list[str]) -> list[str]:
    more = len(lines) - _NAMES_IN_ERRORS
    return lines if more <= 0 else [*lines[:_NAMES_IN_ERRORS], f"  ... and {more} more"]


def _first(names: list[str] | tuple[str, ...]) -> str:
    shown = [f"{printable_line(name):.200}" for name in names[:3]]
    return ", ".join(shown) + (" ..." if len(names) > 3 else "")


def _counts(report: LoadReport) -> str:
    return (
        f"{len(report.missing)} missing and {len(report.misshapen)} of another shape, "
        f"{len(report.unexpected)} unknown to the model, {len(report.loaded)} that fit"
    )


def _warn(path: str | Path, report: LoadReport, lines: list[str], stacklevel: int = 3) -> None:
    warnings.warn(
        f"{path}, tensors: {_counts(report)}. Only those that fit are loaded; the others of the "
        "model keep their values:\n" + "\n".join(lines),
        stacklevel=stacklevel,
    )
