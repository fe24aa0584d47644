"""Describes what differs between two runs of a step: why it runs again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdpose.documents import DocumentError, parse_json, parse_yaml_value

SHOWN = 6
Key = Mapping[str, Any]


def changes(before: Key, now: Key) -> list[str]:
    """One entry for each value that differs; documents (YAML or JSON) value by value.

    >>> changes({"dataset_digest": "1", "n": 1}, {"dataset_digest": "2", "n": 1})
    ['dataset_digest: 1 -> 2']
    >>> changes({"experiment": "a: 0\\nb: {lr: 1}"}, {"experiment": "b: {lr: 2}"})
    ['experiment: a: 0 -> absent', 'experiment: b.lr: 1 -> 2']
    """
    found = []
    for name in dict.fromkeys([*before, *now]):
        old, new = before.get(name, "absent"), now.get(name, "absent")
        if old == new:
            continue
        document, other = _document(old), _document(new)
        if document is None or other is None:
            found.append(f"{name}: {_short(old)} -> {_short(new)}")
            continue
        theirs, ours = _flatten(document), _flatten(other)
        found += [
            f"{name}: {key}: {_short(theirs.get(key, 'absent'))} -> "
            f"{_short(ours.get(key, 'absent'))}"
            for key in dict.fromkeys([*theirs, *ours])
            if theirs.get(key, ...) != ours.get(key, ...)
        ]
    return found


def shortened(lines: list[str]) -> str:
    """The first few, in one line."""
    more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "; ".join(lines[:SHOWN] + more)


def _document(value: Any) -> dict[str, Any] | None:
    if not isinstance(value, str) or ":" not in value:
        return None
    try:
        parse = parse_json if value.startswith("{") else parse_yaml_value
        document = parse(value, "")
    except DocumentError:
        return None
    return document if isinstance(document, dict) else None


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _short(value: Any) -> str:
    text = str(value)
    if len(text) == 64 and all(c in "0123456789abcdef" for c in text):  # a digest
        return text[:12]
    return text if len(text) <= 80 else f"{text[:77]}..."
