"""Which tensors of a file were loaded into a model, as a value and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from sdpose.models.names import official_name
from sdpose.printable import printable_line

_NAMES_OF_A_KIND = 7


@dataclass(frozen=True)
class LoadReport:
    """The outcome for every tensor, by our name (unexpected ones without one: the file's name)."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    """Of the model, not in the file."""
    unexpected: tuple[str, ...]
    """In the file, not of the model."""
    misshapen: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    """In both; (shape in the file, shape in the model)."""
    num_parameters: int = 0
    """In the loaded tensors, without buffers."""
    meta: dict[str, Any] = field(default_factory=dict)
    """The file's `meta`, if it has one."""
    note: str = ""
    """A last line for people."""

    @property
    def kept(self) -> tuple[str, ...]:
        """Tensors of the model that keep their values."""
        return (*self.missing, *self.misshapen)

    @property
    def is_complete(self) -> bool:
        """Whether file and model have the same tensors."""
        return not self.kept and not self.unexpected

    def counts(self) -> str:
        return (
            f"{len(self.missing)} missing and {len(self.misshapen)} of another shape, "
            f"{len(self.unexpected)} unknown to the model, {len(self.loaded)} that fit"
        )

    def lines(self, most: int | None = None) -> list[str]:
        """One line for each tensor that was not loaded, up to `most` of each kind."""
        kinds = (
            [f"  missing in the file: {name}" for name in self.missing],
            [
                f"  of another shape: {name} (file {list(found)}, model {list(wanted)})"
                for name, (found, wanted) in self.misshapen.items()
            ],
            [f"  unknown to the model: {printable_line(name):.200}" for name in self.unexpected],
        )
        return [line for kind in kinds for line in _shortened(kind, most)]

    def shortened_lines(self) -> list[str]:
        return self.lines(_NAMES_OF_A_KIND)

    def untrained_parts(self) -> list[str]:
        """Official names of the backbone's parts with tensors that were not loaded."""
        return sorted({(official_name(name) or name).split(".")[1] for name in self.kept})

    def summary(self) -> str:
        """One line on what was loaded, followed by lines on what was not, and the note."""
        text = f"{len(self.loaded)} tensors loaded ({self.num_parameters / 1e6:.2f} M parameters)"
        if self.is_complete:
            lines = [f"{text}, none missing, none unused"]
        else:
            lines = [f"{text}; {self.counts()}", *self.shortened_lines()]
        return "\n".join([*lines, *filter(None, [self.note])])


def compare(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], model: nn.Module
) -> LoadReport:
    """Compare the tensors to load with those of a model, by name and shape.

    Args:
        state: from the file, under our names.
        expected: the tensors of the model to replace.
        model: counts the parameters among them.
    """
    misshapen = {
        name: (tuple(state[name].shape), tuple(tensor.shape))
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    }
    loaded = tuple(n for n in expected if n in state and n not in misshapen)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return LoadReport(
        loaded=loaded,
        missing=tuple(n for n in expected if n not in state),
        unexpected=tuple(n for n in state if n not in expected),
        misshapen=misshapen,
        num_parameters=sum(sizes.get(name, 0) for name in loaded),
    )


def _shortened(lines: Sequence[str], most: int | None) -> list[str]:
    more = len(lines) - most if most is not None else 0
    if more <= 0:
        return list(lines)
    what = lines[0].partition(":")[0].strip()
    return [*lines[:most], f"  ... and {more} more {what}"]
