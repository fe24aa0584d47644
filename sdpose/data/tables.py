"""JSON tables into arrays, with everything that is wrong with them told at once."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdpose.documents import decode, describe, read_bytes
from sdpose.errors import UserError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Problems:
    """Collects what is wrong with a file, so that the user hears of all of it at once."""

    SHOWN = 5

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, what: str, offenders: Iterable[str] | None = None) -> None:
        """offenders: None = `what` is the whole message; empty = no problem."""
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
    gc.disable()  # it would look through millions of new lists again and again: a fifth of the time
    try:
        return json.loads(text, object_hook=_drop_segmentation)
    except (ValueError, RecursionError) as error:
        # a cut-off download is the usual cause, and the position tells
        raise UserError(
            f"{path}: not valid JSON ({len(text)} characters): {error}; if the file was cut off, "
            "fetch it again"
        ) from None
    finally:
        if collecting:
            gc.enable()


def _drop_segmentation(value: dict[str, Any]) -> dict[str, Any]:
    """Outlines are two thirds of COCO's file and nothing here reads them."""
    value.pop("segmentation", None)
    return value


def integers(
    values: Sequence[Any], key: str, names: Sequence[str], problems: Problems, unique: str = ""
) -> Ints:
    """int64[len(values)]; offenders are reported and become 0. unique: what may occur once only."""
    good = [type(v) in (int, bool) and -(2**63) <= v < 2**63 for v in values]
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
    """float64[len(values), length]; offenders are reported, with the meaning, and become 0."""
    right = [type(v) is list and len(v) == length for v in values]
    blank = [0.0] * length
    padded = [v if ok else blank for v, ok in zip(values, right, strict=True)]
    try:
        array = np.array(padded, dtype=np.float64).reshape(-1, length)
    except (TypeError, ValueError, OverflowError):  # something that is no number: find it
        right = [
            ok and all(type(x) in (int, float) for x in v)
            for v, ok in zip(values, right, strict=True)
        ]
        padded = [v if ok else blank for v, ok in zip(values, right, strict=True)]
        array = np.array(padded, dtype=np.float64).reshape(-1, length)
    finite = np.asarray(np.isfinite(array).all(axis=1))
    for i in np.flatnonzero(~finite).tolist():
        right[i] = right[i] and None not in values[i]  # numpy makes NaN of None
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


def kind_of(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
