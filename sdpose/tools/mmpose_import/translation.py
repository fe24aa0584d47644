"""What becomes of the settings of an mmpose configuration: every one is taken, built in or not
supported, and listed as such."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sdpose.printable import printable_line

MISSING = object()


@dataclass
class Translation:
    """`experiment`: keys of ours, nested. The lists hold lines that begin with a path of the file,
    most of them `path = value`."""

    experiment: dict[str, Any] = field(default_factory=dict)
    taken: list[str] = field(default_factory=list)
    """Paths of the settings that the experiment keeps."""
    built_in: list[str] = field(default_factory=list)
    """Settings that are the same here without being said, or that change no result."""
    unsupported: list[str] = field(default_factory=list)
    lost_losses: list[str] = field(default_factory=list)
    """Those of `unsupported` that are a loss, or a parameter of one."""
    added: list[str] = field(default_factory=list)
    """What the experiment has and the file does not say so."""
    at: str = ""
    """The path that was read last, for the message of a value that nobody expected."""

    def not_supported(self, path: str, value: Any, note: str = "") -> None:
        text = line(path, value) + (f"  ({note})" if note else "")
        if text not in self.unsupported:
            self.unsupported.append(text)
        if path.startswith("model.keypoint_head.loss_") and text not in self.lost_losses:
            self.lost_losses.append(text)


class Node:
    """A dictionary of the file, from which settings are taken until nothing is left."""

    def __init__(self, values: Any, path: str, result: Translation) -> None:
        self._values = dict(values) if isinstance(values, dict) else {}
        self._path, self._result = path, result
        if not isinstance(values, dict | None):
            result.not_supported(path, values, "mmpose has a dict here")

    def section(self, key: str) -> Node:
        """What is below a key; None, as in `grad_clip=None`, is nothing."""
        if key in self._values and self._values[key] is None:
            self.without_effect(key, "nothing is set")
        return Node(self._values.pop(key, None), self._at(key), self._result)

    def get(self, key: str, default: Any = None) -> Any:
        """The value, which stays here: for a decision on what becomes of it."""
        self._at(key)
        return self._values.get(key, default)

    def take(self, key: str, default: Any = None) -> Any:
        """The value, which the caller puts into the experiment."""
        path = self._at(key)
        if key in self._values:
            self._result.taken.append(path)
        return self._values.pop(key, default)

    def keep(
        self, key: str, target: str, *, default: Any = MISSING, skip: tuple[Any, ...] = ()
    ) -> None:
        """Writes a setting under our key; `default` is mmpose's, written where the file is
        silent."""
        value = self.take(key, default)
        if value is not MISSING and value not in skip:
            put(self._result.experiment, target, value)

    def keep_file(self, key: str, target: str) -> None:
        """Writes the path of a weights file; mmcv downloads addresses, which we do not."""
        if "://" in str(self._values.get(key)):
            self.unsupported(key, f"download it, then set {target} to the file")
        else:
            self.keep(key, target, skip=(None,))

    def built_in(self, key: str, values: tuple[Any, ...], note: str = "") -> None:
        """A setting that has one of these values here without being said."""
        if key in self._values:
            if self._values[key] in values:
                self._result.built_in.append(line(self._at(key), self._values.pop(key)))
            else:
                self.unsupported(key, note)

    def without_effect(self, key: str, note: str) -> None:
        """A setting that changes no result, whatever its value is."""
        if key in self._values:
            text = line(self._at(key), self._values.pop(key))
            self._result.built_in.append(f"{text}  ({note})")

    def unsupported(self, key: str, note: str = "") -> None:
        if key in self._values:
            self._result.not_supported(self._at(key), self._values.pop(key), note)

    def finish(self) -> None:
        for key in list(self._values):
            self.unsupported(key)

    def path_of(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else str(key)

    def _at(self, key: str) -> str:
        self._result.at = self.path_of(key)
        return self._result.at


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
