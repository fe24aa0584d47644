"""Checkpoint files: written whole or not at all, checked before they are used.

A file is PyTorch's zip format and loads with `torch.load(path, weights_only=True)`:

    state_dict   the model's tensors under our names; with `ema` their average
    training_state_dict   with `ema`: the weights that are trained
    optimizer    the optimizer's state_dict
    scaler       with fp16: the GradScaler's
    usual_loss   what a loss spike is measured by (watch.py)
    meta         format "sdpose/1", epoch (epochs completed), iteration (steps done, whole run),
                 and what `sdpose.training.loop` keeps to continue exactly

The learning rate is a function of the iteration and all randomness of one of (seed, epoch, sample),
so this is all that an exact resume needs.

The checksum is inside: every record of the zip carries its CRC-32, which `torch.save` writes and
`torch.load` ignores; `load_checkpoint` compares them. A sidecar file could get out of step with its
checkpoint, and is lost when someone copies only the .pth.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdpose.errors import UserError
from sdpose.files import atomic_file, matching, sync_folder
from sdpose.training.checkpoint_content import problem_of
from sdpose.training.events import Say
from sdpose.training.paths import newest_first

FORMAT = "sdpose/1"

Checkpoint = dict[str, Any]


class CorruptCheckpointError(Exception):
    """The file is torn, its bytes have changed, or nothing can be continued from what it holds."""


class ForeignCheckpointError(UserError):
    """The file is no training checkpoint of this program."""


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    with atomic_file(path) as file:
        torch.save(checkpoint, file)


def same_file(source: Path, target: Path) -> None:
    """Makes `target` the same checkpoint as `source`, atomically.

    A hard link: it costs no space, and unlike a symbolic link it stays loadable when the source is
    removed (max_keep_ckpts) or only this file is copied away. Copied where links are impossible.
    Sharing is safe because checkpoints are only ever replaced, never written in place.
    """
    temporary = _temporary(target)
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        with atomic_file(target) as file, source.open("rb") as original:
            shutil.copyfileobj(original, file)
        return
    os.replace(temporary, target)
    # rename(2) does nothing, not even remove the old name, if both are links to one file.
    temporary.unlink(missing_ok=True)
    sync_folder(target.parent)


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint of ours into CPU memory, after comparing its checksums.

    Raises CorruptCheckpointError if it is torn or changed, or training cannot continue from it
    (checkpoint_content.py); ForeignCheckpointError if it is not one of ours.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise CorruptCheckpointError(f"{path}: checksum of {damaged} differs")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except CorruptCheckpointError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CorruptCheckpointError(f"{path}: {reason}") from None
    meta = checkpoint.get("meta") if isinstance(checkpoint, dict) else None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT or "optimizer" not in checkpoint:
        raise ForeignCheckpointError(
            f"{path} cannot be resumed: it is not a training checkpoint of this program; to start "
            f"from its weights: --load-from {path}"
        )
    if (problem := problem_of(checkpoint)) is not None:
        raise CorruptCheckpointError(f"{path}: {problem}")
    return checkpoint


def training_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """What training goes on from; with `ema` not the weights that are evaluated."""
    key = "training_state_dict" if "training_state_dict" in checkpoint else "state_dict"
    weights: dict[str, Tensor] = checkpoint[key]
    return weights


def newest_checkpoint(folder: Path, say: Say) -> tuple[Path, Checkpoint] | None:
    """The newest intact checkpoint of a folder, or None; `say` is told of every damaged one."""
    for path in [folder / name for name in newest_first(p.name for p in matching(folder, "*.pth"))]:
        try:
            return path, load_checkpoint(path)
        except (CorruptCheckpointError, ForeignCheckpointError, FileNotFoundError) as error:
            say(f"skipped a damaged checkpoint: {error}")
    return None


def _temporary(path: Path) -> Path:
    """One fixed name per file: what a killed process leaves is overwritten by the next save."""
    return path.with_name(f".{path.name}.tmp")
