"""From a few lines of YAML to one resolved experiment.

An experiment file states its differences from the schema's defaults and from at most one `base:`
(a name beside it); a base has no base. `--set key.path=value` comes last.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from sdpose.config.schema import Experiment
from sdpose.errors import UserError, did_you_mean

EXPERIMENTS_VARIABLE = "SDPOSE_EXPERIMENTS"


class _Loader(yaml.SafeLoader):
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


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def experiments_dir() -> Path:
    """`pipelines/experiments` of this repository, or $SDPOSE_EXPERIMENTS."""
    configured = os.environ.get(EXPERIMENTS_VARIABLE)
    if configured:
        return Path(configured)
    return Path(__file__).resolve().parents[2] / "pipelines" / "experiments"


def load_experiment(
    name_or_path: str | Path, overrides: Iterable[str] = (), **top_level: str | None
) -> Experiment:
    """The resolved experiment of a name in `pipelines/experiments`, or of a YAML file.

    overrides: texts `key.path=value`, the value in YAML. top_level: the command line's own options
    (data_root, work_dir, ...), which win over both; None means not given.
    Raises UserError naming every problem: unknown experiment or key, wrong type or range.
    """
    path = _find(str(name_or_path))
    values = _read_with_base(path)
    given_by: dict[str, str] = {}
    for override in overrides:
        _apply_override(values, override, given_by)
    for key, value in top_level.items():
        if value is not None:
            values[key] = value
            given_by[key] = f"--{key.replace('_', '-')} {value}"
    return parse_experiment(values, source=str(path), given_by=given_by)


def parse_experiment(
    document: str | dict[str, Any],
    source: str = "experiment",
    given_by: dict[str, str] | None = None,
) -> Experiment:
    """Validates a whole experiment: the text that `dump_experiment` wrote, or a mapping."""
    values = _parse_yaml(document, source) if isinstance(document, str) else document
    try:
        return Experiment.model_validate(values)
    except ValidationError as error:
        explained = (_explain(problem, given_by or {}) for problem in error.errors())
        lines = list(dict.fromkeys(explained))
        heading = f"{source}: {len(lines)} problem{'s' if len(lines) > 1 else ''}"
        raise UserError("\n  ".join([heading, *lines])) from None


def dump_experiment(experiment: Experiment) -> str:
    """The whole resolved experiment as YAML; what travels from step to step."""
    return yaml.safe_dump(
        experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100
    )


def experiment_digest(experiment: Experiment) -> str:
    """sha256 of what `sdpose config show` prints, in hex."""
    return hashlib.sha256(dump_experiment(experiment).encode()).hexdigest()


def _find(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"} or len(path.parts) > 1:
        if not path.is_file():
            raise UserError(f"experiment file not found: {path}")
        return path
    folder = experiments_dir()
    candidate = folder / f"{name_or_path}.yaml"
    if not candidate.is_file():
        names = sorted(p.stem for p in folder.glob("*.yaml"))
        hint = did_you_mean(name_or_path, names) if names else "the folder holds no experiments"
        raise UserError(f"unknown experiment '{name_or_path}' in {folder}: {hint}")
    return candidate


def _read_with_base(path: Path) -> dict[str, Any]:
    values = _read(path)
    base_name = values.pop("base", None)
    if base_name is None:
        return values
    base_path = path.parent / f"{base_name}.yaml"
    if not base_path.is_file():
        base_path = _find(str(base_name))
    base = _read(base_path)
    if "base" in base:
        raise UserError(
            f"{path}: base '{base_name}' has a base itself; an experiment has one base at most"
        )
    return _merge(base, values)


def _read(path: Path) -> dict[str, Any]:
    return _parse_yaml(path.read_text(encoding="utf-8"), str(path))


def _parse_yaml(text: str, source: str) -> dict[str, Any]:
    try:
        values = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{source}: expected 'key: value' lines, found {_describe(values)}")
    return values


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Mappings merge key by key; any other value, lists too, replaces the base's."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[key] = _merge(old, value)
        else:
            merged[key] = value
    return merged


def _apply_override(values: dict[str, Any], override: str, given_by: dict[str, str]) -> None:
    key_path, equals, text = override.partition("=")
    keys = key_path.strip().split(".")
    if not equals or not all(keys):
        raise UserError(f"--set {override}: expected key.path=value, as in --set optimizer.lr=1e-4")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        raise UserError(f"--set {override}: the value is not valid YAML; quote it") from None
    node: dict[str, Any] = values
    for depth, key in enumerate(keys[:-1], start=1):
        child = node.get(key)
        if child is not None and not isinstance(child, dict):
            raise UserError(f"--set {override}: '{'.'.join(keys[:depth])}' has no keys below it")
        node[key] = dict(child or {})
        node = node[key]
    node[keys[-1]] = value
    given_by[key_path.strip()] = f"--set {override}"


def _explain(problem: Any, given_by: dict[str, str]) -> str:
    """One line for one pydantic problem: where, what, what is allowed."""
    location = [part for part in problem["loc"] if part != "__root__"]
    path = ".".join(str(part) for part in location) or "experiment"
    origin = next((by for key, by in given_by.items() if _same_branch(key, path)), None)
    where = f"{path} (from {origin})" if origin else path
    if problem["type"] == "extra_forbidden":
        parent = _section_at(location[:-1])
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


def _section_at(location: list[Any]) -> type[BaseModel] | None:
    """The schema section at a path of keys; None inside a list or a plain value."""
    section: type[BaseModel] = Experiment
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
