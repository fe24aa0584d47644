"""A YAML document of one pydantic model: read, checked, and every problem of it explained."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from sdpose.errors import UserError, did_you_mean

M = TypeVar("M", bound=BaseModel)


class Loader(yaml.SafeLoader):
    """YAML without two traps of PyYAML: `1e-5` is a number, and a key given twice is refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                line = key_node.start_mark.line + 1
                raise yaml.constructor.ConstructorError(
                    None, None, f"key '{key}' is given twice (line {line})", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def parse_document(
    model: type[M],
    document: str | dict[str, Any],
    source: str,
    given_by: dict[str, str] | None = None,
) -> M:
    """Validates YAML text, or the mapping that it holds.

    source: where it comes from, for the message. given_by: option that set a key, by key path.
    Raises UserError naming every problem: unknown key, wrong type or range.
    """
    values = parse_yaml(document, source) if isinstance(document, str) else document
    try:
        return model.model_validate(values)
    except ValidationError as error:
        explained = (_explain(problem, model, given_by or {}) for problem in error.errors())
        lines = list(dict.fromkeys(explained))
        heading = f"{source}: {len(lines)} problem{'s' if len(lines) > 1 else ''}"
        raise UserError("\n  ".join([heading, *lines])) from None


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    try:
        values = yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{source}: expected 'key: value' lines, found {_describe(values)}")
    return values


def _explain(problem: Any, root: type[BaseModel], given_by: dict[str, str]) -> str:
    """One line for one pydantic problem: where, what, what is allowed."""
    location = [part for part in problem["loc"] if part != "__root__"]
    path = ".".join(str(part) for part in location) or root.__name__.lower()
    origin = next((by for key, by in given_by.items() if _same_branch(key, path)), None)
    where = f"{path} (from {origin})" if origin else path
    if problem["type"] == "extra_forbidden":
        parent = _section_at(root, location[:-1])
        allowed = list(parent.model_fields) if parent else []
        return f"{where}: unknown key; {did_you_mean(str(location[-1]), allowed)}"
    if problem["type"] == "missing":
        return f"{where}: required, but not given"
    if problem["type"] == "value_error":
        return f"{where}: {problem['ctx']['error']}"
    if problem["type"] in {"model_type", "model_attributes_type"}:
        return f"{where}: {_describe(problem['input'])}: it has keys below it, none is given"
    message = problem["msg"][0].lower() + problem["msg"][1:]
    if problem["type"] == "literal_error":
        allowed = re.findall(r"'([^']*)'", message)
        message = did_you_mean(str(problem["input"]), allowed)
        if message.startswith("did"):
            message += " allowed: " + ", ".join(sorted(allowed))
    if problem["type"] == "string_pattern_mismatch":
        message = (
            "only letters, digits, '_', '.', '-', at most 128, starting with a letter or digit"
        )
    return f"{where}: {_describe(problem['input'])}: {message}"


def _same_branch(one: str, other: str) -> bool:
    """Whether one key path is the other, or lies above or below it."""
    shorter, longer = sorted((one + ".", other + "."), key=len)
    return longer.startswith(shorter)


def _section_at(root: type[BaseModel], location: list[Any]) -> type[BaseModel] | None:
    """The schema section at a path of keys; None inside a list or a plain value."""
    section = root
    for key in location:
        field = section.model_fields.get(str(key))
        if field is None:
            if isinstance(key, int):  # an element of a tuple of sections
                continue
            return None
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        sections = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not sections:
            return None
        section = sections[0]
    return section


def _describe(value: Any) -> str:
    if value is None:
        return "nothing (null)"
    text = repr(value)
    return text if len(text) <= 60 else f"{type(value).__name__} {text[:57]}..."


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys; lists stay values.

    >>> flatten({"optimizer": {"type": "Adam", "betas": [0.9, 0.999]}})
    {'optimizer.type': 'Adam', 'optimizer.betas': [0.9, 0.999]}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
