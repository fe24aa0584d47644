"""Validate a YAML document by a pydantic model, and explain every problem."""

from __future__ import annotations

import re
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from sdpose.config.key_names import hint_for
from sdpose.config.keys import example_of
from sdpose.config.mappings import same_branch
from sdpose.config.schema import Experiment
from sdpose.documents import DocumentError, describe, parse_yaml_value
from sdpose.errors import UserError, did_you_mean

M = TypeVar("M", bound=BaseModel)

_SHOWN = 20  # explaining is slow: each unknown key is compared with all allowed ones
_LONGEST_LINE = 500

# By pydantic's kind of problem.
_EXPECTED = {
    **dict.fromkeys(("float_parsing", "float_type"), "a number"),
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "an integer"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "true or false"),
    "tuple_type": "a list",
}


def parse_document(
    model: type[M],
    document: str | bytes | dict[str, Any],
    source: str,
    given_by: dict[str, str] | None = None,
) -> M:
    """Validate a document.

    Args:
        document: YAML text, or the mapping that it holds.
        source: its origin, for messages.
        given_by: the options or files that set keys, by key path, for messages.
    Raises:
        UserError: lists every problem: unknown key, wrong type or range.
    """
    values = parse_yaml(document, source) if isinstance(document, str | bytes) else document
    try:
        return model.model_validate(values)
    except RecursionError:  # a mapping from a checkpoint; only parsing text limits the depth
        raise UserError(f"{source}: nested too deeply") from None
    except ValidationError as error:
        problems = error.errors(include_url=False)
        lines = _lines([_explain(problem, model) for problem in problems[:_SHOWN]], given_by or {})
        more = max(0, len(problems) - _SHOWN)
        if len(lines) + more == 1:
            raise UserError(f"{source}: {lines[0]}") from None
        heading = f"{source}: {len(lines) + more} problems"
        lines += [f"and {more} more"] * (more > 0)
        raise UserError("\n  ".join([heading, *lines])) from None


def _lines(explained: list[tuple[str, str]], given_by: dict[str, str]) -> list[str]:
    """One line per problem, with its origin; problems that one option causes share a line."""
    keys_of: dict[tuple[str, str, str], list[str]] = {}
    for path, text in explained:
        origin = next((by for key, by in given_by.items() if same_branch(key, path)), "")
        keys_of.setdefault((origin, "" if origin else path, text), []).append(path)
    lines = []
    for (origin, _, text), paths in keys_of.items():
        where = " and ".join(dict.fromkeys(paths)) + f" (from {origin})" * bool(origin)
        lines.append(f"{where}: {text}"[:_LONGEST_LINE])
    return lines


def parse_yaml(text: str | bytes, source: str) -> dict[str, Any]:
    """Parse YAML text that holds a mapping.

    Raises:
        DocumentError: (a UserError) it is not valid YAML, or not a mapping.
    """
    values = parse_yaml_value(text, source)
    if not isinstance(values, dict):
        raise DocumentError(f"{source}: expected 'key: value' lines, found {describe(values)}")
    return values


def _explain(problem: Any, root: type[BaseModel]) -> tuple[str, str]:
    """Explain a pydantic problem: the key path; what is wrong and what is allowed."""
    location = [part for part in problem["loc"] if part != "__root__"]
    path = ".".join(str(part) for part in location) or root.__name__.lower()
    kind, value = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        parent = _section_at(root, location[:-1])
        allowed = list(parent.model_fields) if parent else []
        return path, f"unknown key; {hint_for(str(location[-1]), root, allowed)}"
    if kind == "missing":
        return path, "required, but not given"
    if kind == "value_error":
        return path, str(problem["ctx"]["error"])
    message = problem["msg"][0].lower() + problem["msg"][1:]
    if kind in {"model_type", "model_attributes_type"}:
        section = _section_at(root, location)
        keys = ", ".join(section.model_fields) if section else ""
        message = f"expected keys below it: {keys}"
        if isinstance(value, str) and section and "type" in section.model_fields:
            message += f", as in {{type: {value}}}"
    elif kind == "literal_error":
        choices = re.findall(r"'([^']*)'", message)
        message = did_you_mean(str(value), choices)
        if message.startswith("did"):
            message += " allowed: " + ", ".join(sorted(choices))
    elif kind == "string_pattern_mismatch":
        message = (
            "only letters, digits, '_', '.', '-', at most 128, starting with a letter or digit"
        )
    elif kind == "string_type" and isinstance(value, int | float):
        message = f"that is a number; in quotes it is text: '{value}'"
    elif kind == "less_than_equal" and problem["ctx"]["le"] == 1 and isinstance(value, int | float):
        message += f" ({value:g} % is {value / 100:g})"
    elif kind in _EXPECTED:
        example = example_of(path) if root is Experiment and "bool" not in kind else None
        message = f"expected {_EXPECTED[kind]}" + (f", as in {example}" if example else "")
    return path, f"{describe(value)}: {message}"


def _section_at(root: type[BaseModel], location: list[Any]) -> type[BaseModel] | None:
    """The schema section at a path of keys; None inside a list or a plain value."""
    section = root
    for key in location:
        field = section.model_fields.get(str(key))
        if field is None:
            if isinstance(key, int):  # index into a tuple of sections
                continue
            return None
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        sections = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not sections:
            return None
        section = sections[0]
    return section
