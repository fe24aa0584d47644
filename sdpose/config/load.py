"""From a few lines of YAML to one resolved experiment.

An experiment file states its differences from the schema's defaults and from at most one `base:`
(a name beside it); a base has no base. `--set key.path=value` comes last.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from sdpose.config.document import flatten, parse_document, parse_yaml
from sdpose.config.schema import Experiment
from sdpose.documents import DocumentError, describe, parse_yaml_value, read_text
from sdpose.errors import UserError, did_you_mean
from sdpose.printable import printable

EXPERIMENTS_VARIABLE = "SDPOSE_EXPERIMENTS"


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
    path = find_document(str(name_or_path), experiments_dir(), "experiment")
    values = _with_base(_read(path), path)
    given_by: dict[str, str] = {}
    for override in overrides:
        _apply_override(values, override, given_by)
    for key, value in top_level.items():
        if value is not None:
            values[key] = value
            given_by[key] = f"--{key.replace('_', '-')} {value}"
    return parse_experiment(values, source=str(path), given_by=given_by)


def parse_experiment(
    document: str | bytes | dict[str, Any],
    source: str = "experiment",
    given_by: dict[str, str] | None = None,
) -> Experiment:
    """Validates a whole experiment: the text that `dump_experiment` wrote, or a mapping."""
    return parse_document(Experiment, document, source, given_by)


def dump_experiment(experiment: Experiment, *, whole: bool = True) -> str:
    """The resolved experiment as YAML; what travels from step to step.

    whole: False leaves out what is the default, which the same code fills in again; where many
    experiments travel together.
    """
    return dump_yaml(experiment.model_dump(mode="json", exclude_defaults=not whole))


def dump_yaml(values: dict[str, Any]) -> str:
    """YAML for people: keys in their order, letters of all scripts as they are."""
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
    if printable(text) == text:
        return text
    # a mark that reorders what is read, for example, which PyYAML takes for a letter
    return yaml.safe_dump(values, sort_keys=False, width=100)


def experiment_digest(experiment: Experiment) -> str:
    """sha256 of what `sdpose config show` prints, in hex."""
    return hashlib.sha256(dump_experiment(experiment).encode()).hexdigest()


def experiment_differences(first: Experiment, second: Experiment) -> dict[str, tuple[Any, Any]]:
    """The settings in which two experiments differ: dotted key to both values, None where the key
    is not there."""
    old, new = (flatten(experiment.model_dump(mode="json")) for experiment in (first, second))
    keys = [*old, *(key for key in new if key not in old)]
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def find_document(name_or_path: str, folder: Path, kind: str) -> Path:
    """The file of a name in `folder`, or of a path. kind: "experiment" or "sweep"."""
    path = Path(name_or_path)
    if path.suffix == ".py":
        raise UserError(f"{path}: mmpose's configurations are imported first: sdpose config import")
    if path.suffix in {".yaml", ".yml"} or len(path.parts) > 1:
        if not os.path.isfile(path):  # False for a name that is too long, where is_file() raises
            raise UserError(f"{kind} file not found: {path}")
        return path
    candidate = folder / f"{name_or_path}.yaml"
    if not os.path.isfile(candidate):
        names = sorted(p.stem for p in folder.glob("*.yaml"))
        hint = did_you_mean(name_or_path, names) if names else f"the folder holds no {kind}s"
        raise UserError(f"unknown {kind} '{name_or_path}' in {folder}: {hint}")
    return candidate


def resolve_experiment(text: str, path: Path) -> Experiment:
    """The experiment of a file's text, its base looked up as if it were the file `path`."""
    return parse_experiment(_with_base(parse_yaml(text, str(path)), path), source=str(path))


def _read(path: Path) -> dict[str, Any]:
    return parse_yaml(read_text(path), str(path))


def _with_base(values: dict[str, Any], path: Path) -> dict[str, Any]:
    base_name = values.pop("base", None)
    if base_name is None:
        return values
    if not isinstance(base_name, str):
        raise UserError(f"{path}: base: {describe(base_name)}: expected the name of an experiment")
    base_path = path.parent / f"{base_name}.yaml"
    if not os.path.isfile(base_path):
        base_path = find_document(base_name, experiments_dir(), "experiment")
    base = _read(base_path)
    if "base" in base:
        raise UserError(
            f"{path}: base '{base_name}' has a base itself; an experiment has one base at most"
        )
    return _merge(base, values)


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
        value = parse_yaml_value(text, f"--set {key_path}")
    except DocumentError as error:
        raise UserError(f"{error}; quote it if it is text") from None
    node: dict[str, Any] = values
    for depth, key in enumerate(keys[:-1], start=1):
        child = node.get(key)
        if child is not None and not isinstance(child, dict):
            raise UserError(f"--set {override}: '{'.'.join(keys[:depth])}' has no keys below it")
        node[key] = dict(child or {})
        node = node[key]
    node[keys[-1]] = value
    given_by[key_path.strip()] = f"--set {override}"
