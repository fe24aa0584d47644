"""A YAML document of one pydantic model: read, checked, and every problem of it explained."""

from __future__ import annotations

import re
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from sdpose.config.key_names import hint_for
from sdpose.config.mappings import same_branch
from sdpose.documents import DocumentError, describe, parse_yaml_value
from sdpose.errors import UserError, did_you_mean

M = TypeVar("M", bound=BaseModel)

_SHOWN = 20  # each unknown key is compared with all that are allowed
_LONGEST_LINE = 500


def parse_document(
    model: type[M],
    document: str | bytes | dict[str, Any],
    source: str,
    given_by: dict[str, str] | None = None,
) -> M:
    """Validates YAML text, or the mapping that it holds.

    source: where it comes from, for the message. given_by: option that set a key, by key path.
    Raises UserError naming every problem: unknown key, wrong type or range.
    """
    values = parse_yaml(document, source) if isinstance(document, str | bytes) else document
    try:
        return model.model_validate(values)
    except RecursionError:  # a mapping of a checkpoint, which no reader of text has bounded
        raise UserError(f"{source}: nested too deeply") from None
    except ValidationError as error:
        problems = error.errors(include_url=False)
        explained = [_explain(p, model, given_by or {})[:_LONGEST_LINE] for p in problems[:_SHOWN]]
        lines = list(dict.fromkeys(explained))
        more = max(0, len(problems) - _SHOWN)
        if len(lines) + more == 1:
            raise UserError(f"{source}: {lines[0]}") from None
        heading = f"{source}: {len(lines) + more} problems"
        lines += [f"and {more} more"] * (more > 0)
        raise UserError("\n  ".join([heading, *lines])) from None


def parse_yaml(text: str | bytes, source: str) -> dict[str, Any]:
    """The mapping of a YAML text. Raises DocumentError, a UserError."""
    values = parse_yaml_value(text, source)
    if not isinstance(values, dict):
        raise DocumentError(f"{source}: expected 'key: value' lines, found {describe(values)}")
    return values


def _explain(problem: Any, root: type[BaseModel], given_by: dict[str, str]) -> str:
    """One line for one pydantic problem: where, what, what is allowed."""
    location = [part for part in problem["loc"] if part != "__root__"]
    path = ".".join(str(part) for part in location) or root.__name__.lower()
    origin = next((by for key, by in given_by.items() if same_branch(key, path)), None)
    where = f"{path} (from {origin})" if origin else path
    if problem["type"] == "extra_forbidden":
        parent = _section_at(root, location[:-1])
        allowed = list(parent.model_fields) if parent else []
        return f"{where}: unknown key; {hint_for(str(location[-1]), root, allowed)}"
    if problem["type"] == "missing":
        return f"{where}: required, but not given"
    if problem["type"] == "value_error":
        return f"{where}: {problem['ctx']['error']}"
    if problem["type"] in {"model_type", "model_attributes_type"}:
        return f"{where}: {describe(problem['input'])}: it has keys below it, none is given"
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
    return f"{where}: {describe(problem['input'])}: {message}"


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
