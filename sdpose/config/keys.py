"""List every key of an experiment, from the schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from sdpose.config.schema import Experiment, Skeleton


@dataclass(frozen=True)
class Key:
    """The key of a value, or of a section that can be null."""

    path: str  # dotted
    meaning: str
    default: Any  # Ellipsis if there is none
    choices: tuple[Any, ...]  # empty if they cannot be listed
    examples: tuple[Any, ...]  # of the schema's field

    @property
    def example(self) -> Any:
        """A valid value; one other than the default if there is any."""
        others = (choice for choice in self.choices if choice != self.default)
        return self.examples[0] if self.examples else next(others, self.default)


def keys(
    section: type[BaseModel] = Experiment, prefix: str = "", values: BaseModel | None = None
) -> Iterator[Key]:
    """Yield every key; the keys of a section follow the section's own.

    Args:
        section: the schema to list.
        prefix: put before every path.
        values: the section's default value, if it differs from the defaults of its fields.
    """
    for name, field in section.model_fields.items():
        path, default = prefix + name, ... if field.is_required() else field.default
        if values is not None:
            default = getattr(values, name)
        below = _section(field.annotation)
        choices = _choices(field.annotation)
        if below is None or None in choices:
            yield Key(
                path,
                field.description or "",
                default,
                choices if below is None else (),
                tuple(field.examples or ()),
            )
        if below is not None:
            whole = default if isinstance(default, BaseModel) else None
            yield from keys(below, f"{path}.", whole)


def example_of(path: str) -> str | None:
    """Return a valid value of an experiment's key as YAML; None: there is no such key."""
    return next((as_yaml(key.example) for key in keys() if key.path == path), None)


def _section(annotation: Any) -> type[BaseModel] | None:
    """The section that a key may hold; None for values and for lists of sections."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is tuple:
        return None
    return next(filter(None, map(_section, get_args(annotation))), None)


def _choices(annotation: Any) -> tuple[Any, ...]:
    if annotation is bool:
        return (True, False)
    if annotation is type(None):
        return (None,)
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if get_origin(annotation) is tuple:
        return ()
    return tuple(choice for each in get_args(annotation) for choice in _choices(each))


def as_yaml(value: Any) -> str:
    """Write a value as YAML on one line."""
    if isinstance(value, Skeleton) and value.preset:
        return value.preset
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_none=True)
    if isinstance(value, str):
        return value
    if isinstance(value, tuple | list):
        items = [getattr(item, "type", item) for item in value]
        texts = (as_yaml(item) if isinstance(item, list | tuple) else str(item) for item in items)
        return f"[{', '.join(texts)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {as_yaml(item)}' for key, item in value.items())}}}"
    return json.dumps(value) if isinstance(value, bool | float | None) else str(value)
