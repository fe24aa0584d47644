"""Nested mappings, and the dotted paths of their values."""

from __future__ import annotations

from typing import Any


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to dotted keys; lists are values.

    >>> flatten({"optimizer": {"type": "Adam", "betas": [0.9, 0.999]}})
    {'optimizer.type': 'Adam', 'optimizer.betas': [0.9, 0.999]}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def nested(path: str, value: Any) -> dict[str, Any]:
    """Nest a value under a dotted path.

    >>> nested("optimizer.lr", 1)
    {'optimizer': {'lr': 1}}
    """
    for key in reversed(path.split(".")):
        value = {key: value}
    return dict(value)


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Merge mappings key by key; any other value, including a list, replaces the base's."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def is_off(values: dict[str, Any], path: str) -> bool:
    """Return whether a section, or one above it, is set to null."""
    node: Any = values
    for key in path.split("."):
        if not isinstance(node, dict) or key not in node:
            return False
        node = node[key]
        if node is None:
            return True
    return False


def same_branch(one: str, other: str) -> bool:
    """Return whether the key paths are equal or one is above the other."""
    shorter, longer = sorted((one + ".", other + "."), key=len)
    return longer.startswith(shorter)
