"""Read JSON tables into arrays, and report all their problems at once."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdpose.documents import decode, describe, read_bytes
from sdpose.errors import UserError

_INFINITE = 1e12  # pixels or square pixels; what is beyond overflows in float32
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Problems:
    """Collects the problems of a file, to report all of them in one error."""

    SHOWN = 5

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, what: str, offenders: Iterable[str] | None = None) -> None:
        """Add a problem; an empty `offenders` adds none, with None `what` is the whole message."""
        if offenders is None:
            self.lines.append(what)
            return
        names = list(offenders)
        if names:
            more = f", and {len(names) - self.SHOWN} more" if len(names) > self.SHOWN else ""
            self.lines.append(f"{len(names)} {what}: {', '.join(names[: self.SHOWN])}{more}")

    def stop(self, path: Path, heading: str) -> None:
        if self.lines:
            raise UserError("\n  ".join([f"{path}: {heading}", *self.lines]))


def read_json(path: Path) -> Any:
    text = decode(read_bytes(path, limit=None), str(path))
    collecting = gc.isenabled()
    gc.disable()  # it would traverse millions of new lists repeatedly: a fifth of the time
    try:
        return json.loads(text, object_hook=_drop_segmentation)
    except (ValueError, RecursionError) as error:
        # The usual cause is a truncated download; the error's position shows it.
        raise UserError(
            f"{path}: not valid JSON ({len(text)} characters): {error}; if the file was cut off, "
            "fetch it again"
        ) from None
    finally:
        if collecting:
            gc.enable()


def _drop_segmentation(value: dict[str, Any]) -> dict[str, Any]:
    """Drop the outlines: two thirds of COCO's file, and not used here."""
    value.pop("segmentation", None)
    return value


def as_list(value: Any) -> list[Any]:
    """Return a value that is a list, else an empty one."""
    return value if isinstance(value, list) else []


def is_integer(value: Any) -> bool:
    """Return whether a value is an integer of 64 bits; 1.0 and "1" are not."""
    return type(value) in (int, bool) and -(2**63) <= value < 2**63


def integers(
    values: Sequence[Any], key: str, names: Sequence[str], problems: Problems, unique: str = ""
) -> Ints:
    """Convert to int64 [len(values)]; invalid values are added to `problems` and become 0.

    `unique` names the values, for messages, if they must not repeat.
    """
    good = [is_integer(v) for v in values]
    offenders = [
        f"{n} ({describe(v):.40})" for n, v, ok in zip(names, values, good, strict=True) if not ok
    ]
    problems.add(f"rows whose '{key}' is missing or no integer", offenders)
    if unique:
        known = [v for v, ok in zip(values, good, strict=True) if ok]
        numbers, counts = np.unique(np.array(known, dtype=np.int64), return_counts=True)
        problems.add(
            f"duplicate {unique}",
            (f"{i} ({n} times)" for i, n in zip(numbers, counts, strict=True) if n > 1),
        )
    return np.array([v if ok else 0 for v, ok in zip(values, good, strict=True)], dtype=np.int64)


def floats(
    values: Sequence[Any],
    length: int,
    key: str,
    names: Sequence[str],
    problems: Problems,
    meaning: str = "",
) -> Floats:
    """Convert to float64 [len(values), length]; invalid rows are added to `problems`, with the
    `meaning` of the numbers, and become 0."""
    right = [type(v) is list and len(v) == length for v in values]
    blank = [0.0] * length
    padded = [v if ok else blank for v, ok in zip(values, right, strict=True)]
    try:
        array = np.array(padded, dtype=np.float64).reshape(-1, length)
    except (TypeError, ValueError, OverflowError):  # find the values that are not numbers
        right = [
            ok and all(type(x) in (int, float) for x in v)
            for v, ok in zip(values, right, strict=True)
        ]
        padded = [
            [_as_float(x) for x in v] if ok else blank for v, ok in zip(values, right, strict=True)
        ]
        array = np.array(padded, dtype=np.float64).reshape(-1, length)
    finite = np.asarray((np.abs(array) < _INFINITE).all(axis=1))
    for i in np.flatnonzero(~finite).tolist():
        right[i] = right[i] and None not in values[i]  # numpy converts None to NaN
    expected = "a number" if length == 1 else f"a list of {length} numbers"
    expected += f" ({meaning})" if meaning else ""
    problems.add(
        f"rows whose '{key}' is missing or not {expected}",
        (n for n, ok in zip(names, right, strict=True) if not ok),
    )
    problems.add(
        f"rows whose '{key}' is NaN or infinite",
        (names[i] for i in np.flatnonzero(~finite).tolist() if right[i]),
    )
    return np.where(finite[:, None], array, 0.0)


def _as_float(number: float) -> float:
    """Infinite for an integer of more than 308 digits, which JSON allows."""
    try:
        return float(number)
    except OverflowError:
        return math.inf


def kind_of(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
