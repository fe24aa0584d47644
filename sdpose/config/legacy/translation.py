"""What becomes of the settings of an mmpose configuration: every one ends in one of three lists."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sdpose.printable import printable_line

MISSING = object()


@dataclass
class Translation:
    """`experiment`: keys of ours, nested. The lists hold `path = value` lines of the file."""

    experiment: dict[str, Any] = field(default_factory=dict)
    built_in: list[str] = field(default_factory=list)
    unsupported: list[str] = field(default_factory=list)


class Node:
    """A dictionary of the file, from which settings are taken until nothing is left."""

    def __init__(self, values: Any, path: str, result: Translation) -> None:
        self._values = dict(values) if isinstance(values, dict) else {}
        self._path, self._result = path, result

    def section(self, key: str) -> Node:
        """What is below a key. If that is no dictionary, it stays here and is reported."""
        value = self._values.get(key)
        if value is None or isinstance(value, dict):
            self._values.pop(key, None)
            return Node(value, self._at(key), self._result)
        return Node(None, self._at(key), self._result)

    def take(self, key: str, default: Any = None) -> Any:
        return self._values.pop(key, default)

    def keep(
        self, key: str, target: str, *, default: Any = MISSING, skip: tuple[Any, ...] = ()
    ) -> None:
        """Writes a setting under our key; `default` is mmpose's, written where the file is
        silent."""
        value = self._values.pop(key, default)
        if value is not MISSING and value not in skip:
            put(self._result.experiment, target, value)

    def keep_file(self, key: str, target: str) -> None:
        """Writes the path of a weights file; mmcv downloads addresses, which we do not."""
        if "://" in str(self._values.get(key)):
            self.unsupported(key, f"download it, then set {target} to the file")
        else:
            self.keep(key, target, skip=(None,))

    def built_in(self, key: str, values: tuple[Any, ...]) -> None:
        """A setting that has one of these values here without being said."""
        if key in self._values and self._values[key] in values:
            self._result.built_in.append(line(self._at(key), self._values.pop(key)))

    def unsupported(self, key: str, note: str = "") -> None:
        if key in self._values:
            text = line(self._at(key), self._values.pop(key))
            self._result.unsupported.append(f"{text}  ({note})" if note else text)

    def finish(self) -> None:
        for key in list(self._values):
            self.unsupported(key)

    def _at(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key


def put(experiment: dict[str, Any], target: str, value: Any) -> None:
    *sections, key = target.split(".")
    for section in sections:
        experiment = experiment.setdefault(section, {})
    experiment[key] = value


def line(path: str, value: Any) -> str:
    """`path = value`, in one line whatever the file's keys hold: it becomes a comment."""
    text = repr(value)
    return printable_line(f"{path:.100} = {text if len(text) <= 100 else text[:97] + '...'}")


def as_dict(value: Any) -> dict[Any, Any]:
    """The value, or an empty dictionary if the file has something else there."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """The value's items, or none if the file has something else there."""
    return list(value) if isinstance(value, list | tuple) else []
