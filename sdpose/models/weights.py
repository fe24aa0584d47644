"""Load and convert weights: our checkpoints, safetensors, official SDPose files, backbones alone.

Loading never executes code from a file: `torch.load` runs with `weights_only`.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from dataclasses import replace
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
from sdpose.models.load_report import LoadReport, compare
from sdpose.models.names import official_name, our_name
from sdpose.models.sdpose import SDPose
from sdpose.printable import printable_line

CHECKPOINT_FORMAT = "sdpose/1"

# mmcv stores the best AP in `meta` as a numpy scalar. Unpickling these types runs no code.
_SAFE_GLOBALS: list[Any] = [
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    np.dtypes.Int64DType,
    (multiarray.scalar, "numpy.core.multiarray.scalar"),
    (multiarray.scalar, "numpy._core.multiarray.scalar"),
]


def load_weights(model: nn.Module, path: str | Path, strict: bool = True) -> LoadReport:
    """Load the tensors of a file into `model`. A Python warning names those that were not loaded.

    Args:
        model: changed in place.
        path: the file, of any layout that `read_checkpoint` reads.
        strict: False keeps the model's values where the file has no tensor or one of another shape.
    Raises:
        UserError: the file is unreadable, or `strict` and a tensor is missing or has another
            shape. The model is unchanged.
    """
    state, meta = read_checkpoint(path)
    report = apply_weights(model, path, state, meta, strict=strict)
    warn_unless_complete(path, report)
    return report


def apply_weights(
    model: nn.Module,
    path: str | Path,
    state: Mapping[str, Tensor],
    meta: dict[str, Any],
    *,
    strict: bool = True,
) -> LoadReport:
    """As `load_weights`, with what `read_checkpoint` returned for `path`, and without warnings."""
    if strict:
        check_weights(model, path, state)
    report = replace(compare(state, model.state_dict(), model), meta=meta)
    model.load_state_dict({name: state[name] for name in report.loaded}, strict=False)
    return report


def check_weights(model: nn.Module, path: str | Path, state: Mapping[str, Tensor]) -> LoadReport:
    """Check that `state`, read from `path`, has every tensor of `model` in its shape.

    Raises:
        UserError: a tensor is missing or has another shape.
    """
    report = compare(state, model.state_dict(), model)
    if report.kept:
        raise UserError(
            f"{path} does not fit the model: {report.counts()}:\n"
            + "\n".join(report.shortened_lines())
            + "\nis it a checkpoint of this experiment (backbone, depth, patch_size, dim)?"
        )
    return report


def load_backbone_weights(model: SDPose, path: str | Path) -> LoadReport:
    """Initialise the backbone from a file, such as ImageNet HRNet-W32 (key `model.pretrained`).

    Tensors that the file lacks or has in another shape keep their initial values, and a Python
    warning names them.
    For SDPose-B and HRNet-W32 these are all of layer1 and transition1, because the first stage has
    32 channels here and 64 there. As in the official code, a pretrained backbone is initialised by
    PyTorch's default distributions before, not by N(0, 0.001).

    Args:
        path: as for `load_weights`.
    Returns:
        The report on the backbone alone.
    Raises:
        UserError: no tensor of the file fits.
    """
    report = apply_backbone_weights(model, path, read_checkpoint(path)[0])
    warn_unless_complete(path, report)
    return report


def apply_backbone_weights(
    model: SDPose, path: str | Path, file_state: Mapping[str, Tensor]
) -> LoadReport:
    """As `load_backbone_weights`, with the tensors that `read_checkpoint` returned for `path`, and
    without warnings."""
    state = {name: tensor for name, tensor in file_state.items() if name.startswith("backbone.")}
    expected = {f"backbone.{name}": v for name, v in model.backbone.state_dict().items()}
    report = compare(state, expected, model)
    if not report.loaded:
        raise UserError(
            f"{path} holds no tensor that fits the backbone (model.pretrained); "
            f"it has {_first(tuple(file_state))}, the backbone {_first(tuple(expected))}"
        )
    for module in model.backbone.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.reset_parameters()
    model.load_state_dict({name: state[name] for name in report.loaded}, strict=False)
    if not report.kept:
        return report
    parts = report.untrained_parts()
    return replace(report, note=f"these parts start untrained, wholly or partly: {parts}")


def convert_weights(
    source: Path, target: Path, layout: Literal["official", "sdpose"] | None = None
) -> None:
    """Write the tensors of `source` to `target`, bit for bit, under the names of `layout`.

    Args:
        source: any layout that `read_checkpoint` reads.
        target: .pth or .safetensors, written atomically. From .pth to .pth `meta` is copied; the
            optimizer's state never is.
        layout: default: ours if `source` has official names, else the official one.
    Raises:
        UserError: `source` is unreadable or not an SDPose model, or `target` cannot be written.
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
    """Read the tensors of a file (on the CPU, under our names), and its `meta` if any.

    Reads .safetensors and torch files, the latter with the tensors under `state_dict` or at top
    level. Names may be official, official without `backbone.`, or ours, all with a wrapper's prefix
    or without (`module.` of DDP, `_orig_mod.` of torch.compile, `model.` of Lightning).

    Raises:
        UserError: the file is missing, unreadable, or holds no weights.
    """
    state, meta = _read_tensors(Path(path))
    return _under_our_names(state), meta


def _under_our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {our_name(name) or name: tensor for name, tensor in state.items()}


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors under the file's own names without a wrapper's prefix, and its `meta`."""
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
    tensors = _unwrapped({str(name): tensor for name, tensor in state.items()})
    return tensors, meta if isinstance(meta, dict) else {}


def _unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefix that wrappers put before all names, if known names follow it."""
    cut = 0
    while not any(our_name(name[cut:]) for name in state):
        prefixes = {name[cut:].partition(".")[0] for name in state}
        cut += len(prefixes.pop()) + 1
        if prefixes or not all(name[cut:] for name in state):
            return state
    return {name[cut:]: tensor for name, tensor in state.items()}


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


def read_torch_file(path: Path) -> dict[str, Any]:
    """Read a dict of tensors and plain values that `torch.save` wrote.

    Raises:
        UserError: the file is unreadable, damaged, or holds anything else.
    """
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
        # A damaged file can fail anywhere in the decoder, with any exception.
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{path} is not a readable checkpoint; it may be damaged or cut short: {reason}"
            ) from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no weights: expected a dict, found {type(content).__name__}")
    return content


def _culprit(error: pickle.UnpicklingError) -> str:
    """The global that torch's long message names, as in `GLOBAL posix.system`."""
    _, found, rest = str(error).partition("GLOBAL ")
    return f" (it names {rest.split()[0]})" if found else ""


def _first(names: list[str] | tuple[str, ...]) -> str:
    shown = [f"{printable_line(name):.200}" for name in names[:3]]
    return ", ".join(shown) + (" ..." if len(names) > 3 else "")


def warn_unless_complete(path: str | Path, report: LoadReport) -> None:
    """Warn the caller of the function that calls this one of what was not loaded."""
    if not report.is_complete:
        warnings.warn(
            f"{path}, tensors: {report.counts()}. Only those that fit are loaded; the others of "
            "the model keep their values:\n"
            + "\n".join([*report.lines(), *filter(None, [report.note])]),
            stacklevel=3,
        )
