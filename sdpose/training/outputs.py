"""Where the checkpoints of a run go.

The loop saves and names checkpoints through `Outputs`. `LocalOutputs` writes them at once into a
folder. sdpose.outputs.saver writes them in the background, tries again when a disk is full, and
uploads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from sdpose.files import matching
from sdpose.training.checkpoint import Checkpoint, same_file, save_checkpoint
from sdpose.training.paths import LATEST, outdated


class Outputs(Protocol):
    """Of rank 0; the other ranks have `NoOutputs`."""

    @property
    def is_due(self) -> bool:
        """Whether to save inside of an epoch, now."""

    def save(self, checkpoint: Checkpoint) -> None:
        """Has latest.pth written. Later training steps do not change what was given."""

    def name(self, names: Sequence[str]) -> None:
        """Gives the checkpoint saved last these names, too, and removes those out of date."""

    def flush(self) -> bool:
        """Waits until the last save is on the disk, or has failed (False)."""


class NoOutputs:
    is_due = False

    def save(self, checkpoint: Checkpoint) -> None: ...
    def name(self, names: Sequence[str]) -> None: ...
    def flush(self) -> bool:
        return True


class LocalOutputs(NoOutputs):
    """A folder, which is written before training goes on.

    Args:
        folder: Of the checkpoints; it is made.
        keep: How many of the newest epoch_N.pth stay; -1: all.
    """

    def __init__(self, folder: Path, *, keep: int = -1) -> None:
        self._folder, self._keep = folder, keep

    def save(self, checkpoint: Checkpoint) -> None:
        save_checkpoint(self._folder / LATEST, checkpoint)

    def name(self, names: Sequence[str]) -> None:
        for name in names:
            name_latest(self._folder, name, self._keep)


def name_latest(folder: Path, name: str, keep: int) -> None:
    """Makes `name` the same checkpoint as latest.pth, and removes those that it replaces.

    Raises:
        UserError, OSError: It cannot be written.
    """
    same_file(folder / LATEST, folder / name)
    names = [path.name for path in matching(folder, "*.pth")]
    for old in outdated(names, name, keep):
        (folder / old).unlink(missing_ok=True)
