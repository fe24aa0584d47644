"""The protocol by which the loop saves checkpoints, and its implementation for a local folder.

`LocalOutputs` writes synchronously. sdpose.outputs.saver writes in the background, retries when a
disk is full, and uploads.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from sdpose.files import matching
from sdpose.training.checkpoint import Checkpoint, same_file, save_checkpoint
from sdpose.training.paths import LATEST, outdated


class Outputs(Protocol):
    """Saves the checkpoints of a run on rank 0; the other ranks have `NoOutputs`."""

    @property
    def is_due(self) -> bool:
        """Whether a save within the epoch is due now."""

    def save(self, checkpoint: Checkpoint) -> None:
        """Write latest.pth; later training steps must not affect what is written."""

    def name(self, names: Sequence[str]) -> None:
        """Also save the last checkpoint under these names, and remove those that they replace."""

    def flush(self) -> bool:
        """Wait until the last save is on disk (True) or has failed (False)."""


class NoOutputs:
    """Saves nothing."""

    is_due = False

    def save(self, checkpoint: Checkpoint) -> None: ...
    def name(self, names: Sequence[str]) -> None: ...
    def flush(self) -> bool:
        return True


class LocalOutputs(NoOutputs):
    """Write checkpoints to a folder, synchronously.

    Args:
        folder: created if missing.
        keep: number of the newest epoch_N.pth to keep; -1: all.
    """

    def __init__(self, folder: Path, *, keep: int = -1) -> None:
        self._folder, self._keep = folder, keep

    def save(self, checkpoint: Checkpoint) -> None:
        save_checkpoint(self._folder / LATEST, checkpoint)

    def name(self, names: Sequence[str]) -> None:
        for name in names:
            name_latest(self._folder, name, self._keep)


def name_latest(folder: Path, name: str, keep: int) -> None:
    """Make `name` the same checkpoint as latest.pth, and remove those that it replaces.

    Raises:
        UserError, OSError: it cannot be written.
    """
    same_file(folder / LATEST, folder / name)
    names = [path.name for path in matching(folder, "*.pth")]
    for old in outdated(names, name, keep):
        (folder / old).unlink(missing_ok=True)
