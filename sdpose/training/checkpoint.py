"""Checkpoint files: written atomically, verified before they are used.

A file is PyTorch's zip format and loads with `torch.load(path, weights_only=True)`:

    state_dict   the model's tensors under our names; with `ema` their average
    training_state_dict   with `ema`: the weights that are trained
    optimizer    the optimizer's state_dict
    scaler       with fp16: the GradScaler's state_dict
    usual_loss   the reference of loss spikes (divergence.py)
    meta         format "sdpose/1", epoch (epochs completed), iteration (steps done, whole run),
                 and what else `loop._content` stores

An exact resume needs no more, because the learning rate is a function of the iteration, and all
randomness one of (seed, epoch, sample).

The checksum is inside: every record of the zip has a CRC-32, which `torch.save` writes and
`torch.load` ignores; `load_checkpoint` compares them. A sidecar file could become inconsistent with
its checkpoint, and is lost when only the .pth is copied.
"""

from __future__ import annotations

import logging
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
from sdpose.training.paths import newest_first

FORMAT = "sdpose/1"

Checkpoint = dict[str, Any]

logger = logging.getLogger(__name__)


class CorruptCheckpointError(Exception):
    """The file is truncated or damaged, or training cannot continue from its content."""


class ForeignCheckpointError(UserError):
    """The file is not a training checkpoint of this program."""


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    with atomic_file(path) as file:
        torch.save(checkpoint, file)


def same_file(source: Path, target: Path) -> None:
    """Make `target` the same checkpoint as `source`, atomically.

    A hard link takes no space, and unlike a symbolic link it stays loadable when the source is
    removed (max_keep_ckpts) or only this file is copied. Without support for links it is a copy.
    Sharing is safe because checkpoints are always replaced, never written in place.
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
    # rename(2) does nothing, and keeps the old name, if both are links to the same file.
    temporary.unlink(missing_ok=True)
    sync_folder(target.parent)


def load_checkpoint(path: Path) -> Checkpoint:
    """Verify the checksums of a checkpoint, and load it into CPU memory.

    Raises:
        CorruptCheckpointError: it is damaged, or training cannot continue from it
            (checkpoint_content.py).
        ForeignCheckpointError: it is not a training checkpoint of this program.
        FileNotFoundError: there is no such file.
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
    """Return the weights to continue training from; with `ema` not those that are evaluated."""
    key = "training_state_dict" if "training_state_dict" in checkpoint else "state_dict"
    weights: dict[str, Tensor] = checkpoint[key]
    return weights


def newest_checkpoint(folder: Path) -> tuple[Path, Checkpoint] | None:
    """Return the newest intact checkpoint of a folder, or None; damaged ones are logged."""
    for path in [folder / name for name in newest_first(p.name for p in matching(folder, "*.pth"))]:
        try:
            return path, load_checkpoint(path)
        except (CorruptCheckpointError, ForeignCheckpointError, FileNotFoundError) as error:
            logger.info(f"skipped a damaged checkpoint: {error}")
    return None


def _temporary(path: Path) -> Path:
    """A fixed name per file: the next save overwrites the leftover of a killed process."""
    return path.with_name(f".{path.name}.tmp")
