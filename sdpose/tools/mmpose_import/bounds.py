"""How large the values of a configuration may become.

Results are measured, not operators: `a + a`, `a.replace("x", a)` and `[a, a]` double a value as
`a * 2` does, and forty such lines ask for more memory than there is.
"""

from __future__ import annotations

import re
from typing import Any

MAX_ELEMENTS = 10_000  # of one list, tuple, dict or text
MAX_NODES = 100_000  # of one value, what is referred to twice counted twice
MAX_DEPTH = 50
MAX_BITS = 1024  # of an integer; a float ends there, too
MAX_VISITS = 2_000_000  # nodes looked at while a file is read

_CHARACTERS_PER_NODE = 64
_UNUSABLE = re.compile("[\0\ud800-\udfff]")  # no file name or stream takes them


class TooLargeError(ValueError):
    """A value that is no setting: too large, or of another type."""


class Bounds:
    """Measures values. What it looks at altogether is limited, too: a loop could ask for a walk
    over the same large list each time."""

    def __init__(self) -> None:
        self._visits = 0

    def check(self, value: Any) -> Any:
        """The value itself. Raises TooLargeError."""
        if isinstance(value, bool | float | None):
            return value
        level, nodes = [value], 0
        for _ in range(MAX_DEPTH):
            children: list[Any] = []
            for item in level:
                nodes += 1 + self._own_size(item)
                if isinstance(item, list | tuple):
                    children.extend(item)
                elif isinstance(item, dict):
                    children.extend(item)
                    children.extend(item.values())
                if nodes + len(children) > MAX_NODES:
                    raise TooLargeError(f"more than {MAX_NODES} values")
            self._visits += len(level)
            if self._visits > MAX_VISITS:
                raise TooLargeError("the file computes too much")
            if not children:
                return value
            level = children
        raise TooLargeError(f"nested deeper than {MAX_DEPTH} levels, or a part of itself")

    @staticmethod
    def _own_size(value: Any) -> int:
        match value:
            case bool() | float() | None:
                return 0
            case int():
                if value.bit_length() > MAX_BITS:
                    raise TooLargeError(f"an integer of more than {MAX_BITS} bits")
                return 0
            case str():
                _check_length(value)
                if _UNUSABLE.search(value):
                    raise TooLargeError("text with a NUL character or half of a surrogate pair")
                return len(value) // _CHARACTERS_PER_NODE
            case list() | tuple() | dict():
                _check_length(value)
                return 0
            case _:
                raise TooLargeError(f"{type(value).__name__} values are no settings")


def check_operands(name: str, operands: tuple[Any, ...]) -> None:
    """Refuses what would compute a result that is too large to be looked at. Raises TooLargeError.

    name: of the operator (`Mult`, `Pow`, `Mod`) or function (`round`).
    """
    first, second = operands[0], operands[-1]
    match name:
        case "Mult":
            lengths = [len(o) for o in operands if isinstance(o, str | list | tuple)]
            times = [o for o in operands if isinstance(o, int)]
            if max(lengths, default=0) * max(times, default=1) > MAX_ELEMENTS:
                raise TooLargeError(f"more than {MAX_ELEMENTS} elements")
        case "Pow" if isinstance(second, int | float) and abs(second) > 100:
            raise TooLargeError("the exponent is too large")
        case "round" if len(operands) > 1 and isinstance(second, int) and abs(second) > 100:
            raise TooLargeError("the number of digits is too large")
        case "Mod" if isinstance(first, str):
            if "*" in first:
                raise TooLargeError("the format takes its width from a value")
            check_width(first)


def check_width(form: str) -> None:
    """Refuses a format that pads to thousands of characters. Raises TooLargeError."""
    if re.search(r"\d{4}", form):
        raise TooLargeError("the format is too wide")


def _check_length(value: str | list[Any] | tuple[Any, ...] | dict[Any, Any]) -> None:
    if len(value) > MAX_ELEMENTS:
        unit = "characters" if isinstance(value, str) else "elements"
        raise TooLargeError(f"more than {MAX_ELEMENTS} {unit}")
