"""Resolve a few lines of YAML to a complete experiment.

An experiment file states its differences from its `base:` (an experiment in the same folder, or a
shipped one), which may have a base itself; the first of the chain states its differences from the
schema's defaults. `--set key.path=value` overrides them all.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from sdpose.config.document import parse_document, parse_yaml
from sdpose.config.key_names import full_paths, spell_out
from sdpose.config.mappings import flatten, merge
from sdpose.config.paths import expand_paths
from sdpose.config.schema import Experiment
from sdpose.config.schema.section import is_name
from sdpose.config.schema.skeleton import AUTO, PRESET_NAMES, preset
from sdpose.documents import DocumentError, describe, parse_yaml_value, read_text
from sdpose.errors import UserError, did_you_mean
from sdpose.printable import printable

EXPERIMENTS_VARIABLE = "SDPOSE_EXPERIMENTS"
MAX_BASES = 20
WEIGHTS = {".pth", ".pt", ".safetensors", ".ckpt", ".onnx"}

Chain = list[tuple[Path, dict[str, Any]]]  # the bases, the first one first, then the document


def experiments_dir() -> Path:
    """Return $SDPOSE_EXPERIMENTS, or else `pipelines/experiments` of this repository."""
    configured = os.environ.get(EXPERIMENTS_VARIABLE)
    if configured:
        return Path(configured)
    return Path(__file__).resolve().parents[2] / "pipelines" / "experiments"


class Override(str):
    """A `key.path=value` that the user did not type; messages name its origin `by`, not --set."""

    by: str

    def __new__(cls, text: str, by: str) -> Override:
        self = super().__new__(cls, text)
        self.by = by
        return self


def load_experiment(
    name_or_path: str | Path, overrides: Iterable[str] = (), **top_level: str | None
) -> Experiment:
    """Load and resolve an experiment.

    Args:
        name_or_path: a name in `experiments_dir()`, or a YAML file.
        overrides: `key.path=value`, the value in YAML.
        top_level: options of the command line (data_root, work_dir, ...), which override all else;
            None means not given.
    Raises:
        UserError: lists every problem: unknown experiment or key, wrong type or range.
    """
    return _load(name_or_path, overrides, top_level)[0]


def load_document(
    values: dict[str, Any], source: Path, overrides: Iterable[str] = (), **top_level: str | None
) -> Experiment:
    """Resolve a complete document like `load_experiment`; messages name its file `source`."""
    return _resolve([(source, values)], overrides, top_level)[0]


def load_with_origins(
    name_or_path: str | Path, overrides: Iterable[str] = (), **top_level: str | None
) -> tuple[Experiment, dict[str, str]]:
    """Load an experiment like `load_experiment`, with the origin of each value by dotted key.

    An origin is a file, an option, or "default".
    """
    experiment, chain, given_by = _load(name_or_path, overrides, top_level)
    return experiment, _origins(experiment, chain, given_by)


def _load(
    name_or_path: str | Path, overrides: Iterable[str], top_level: dict[str, str | None]
) -> tuple[Experiment, Chain, dict[str, str]]:
    """The experiment, its chain of documents, and the options by the key that they set."""
    path = find_document(str(name_or_path), experiments_dir(), "experiment")
    return _resolve(_chain(_read(path), path), overrides, top_level)


def _resolve(
    chain: Chain, overrides: Iterable[str], top_level: dict[str, str | None]
) -> tuple[Experiment, Chain, dict[str, str]]:
    chain, values = _merged(chain)
    given_by: dict[str, str] = {}
    for override in overrides:
        _apply_override(values, override, given_by)
    for key, value in top_level.items():
        if value is not None:
            values[key] = value
            given_by[key] = f"--{key.replace('_', '-')} {value}"
    in_bases: dict[str, str] = {}
    for base, contents in chain[:-1]:
        in_bases |= dict.fromkeys(flatten(contents), str(base))
    for key in flatten(chain[-1][1]):
        in_bases.pop(key, None)
    values = expand_paths(values)
    source = str(chain[-1][0])
    experiment = parse_experiment(values, source=source, given_by=given_by | in_bases)
    return experiment, chain, given_by


def parse_experiment(
    document: str | bytes | dict[str, Any],
    source: str = "experiment",
    given_by: dict[str, str] | None = None,
) -> Experiment:
    """Validate a complete experiment; arguments as in `document.parse_document`."""
    return parse_document(Experiment, document, source, given_by)


def dump_experiment(experiment: Experiment, *, whole: bool = True) -> str:
    """Dump a resolved experiment as YAML, the form that is passed from step to step.

    `whole=False` omits defaults, to pass many experiments: only the same code restores them.
    """
    values = experiment.model_dump(mode="json", exclude_defaults=not whole)
    if "skeleton" in values:  # an empty list is a value there: left out, it follows from the names
        values["skeleton"] = experiment.model_dump(mode="json", include={"skeleton"})["skeleton"]
    return dump_yaml(values)


def dump_yaml(values: dict[str, Any]) -> str:
    """Dump YAML for human readers: keys in their order, letters of all scripts unescaped."""
    skeleton = values.get("skeleton")
    if isinstance(skeleton, dict):  # a line for each list instead of one for each keypoint
        values = values | {"skeleton": {key: _OnOneLine(v) for key, v in skeleton.items()}}
    text = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    if printable(text) == text:
        return text
    # An invisible character, such as one that reverses the text direction, which PyYAML does not
    # escape if allow_unicode is set.
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, width=100)


class _OnOneLine(list[Any]):
    """Dumped as `[a, b]`."""


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(
    _OnOneLine,
    lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, True),
)


def experiment_digest(experiment: Experiment) -> str:
    """Return the sha256 of what `sdpose config show` prints, in hex."""
    return hashlib.sha256(dump_experiment(experiment).encode()).hexdigest()


def summary_values(experiment: Experiment) -> dict[str, Any]:
    """Return the values by dotted key, for tables: of the skeleton only its label."""
    values = experiment.model_dump(mode="json")
    skeleton = experiment.skeleton
    if skeleton is not None:
        values["skeleton"] = skeleton.label
    flat = flatten(values)
    if skeleton is not None and skeleton.preset is None:  # the label is that of its evaluation
        training = repr((skeleton.flip_pairs, skeleton.upper_body))
        flat["skeleton.training"] = hashlib.sha256(training.encode()).hexdigest()[:8]
    return flat


def experiment_differences(first: Experiment, second: Experiment) -> dict[str, tuple[Any, Any]]:
    """Return the differing values of two experiments by dotted key; None: the key is missing."""
    old, new = (flatten(experiment.model_dump(mode="json")) for experiment in (first, second))
    keys = [*old, *(key for key in new if key not in old)]
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def find_document(name_or_path: str, folder: Path, kind: str) -> Path:
    """Return the file of a name in `folder`, or of a path.

    Args:
        kind: "experiment" or "sweep".
    Raises:
        UserError: there is no such file, or it is not a YAML document.
    """
    path = Path(name_or_path)
    if path.suffix == ".py":
        raise UserError(
            f"{path}: a configuration of mmpose is read by sdpose train, test and launch, and by "
            f"submit.py --exp; elsewhere import it first: sdpose config import {path} -o NAME.yaml"
        )
    if path.suffix in WEIGHTS:
        raise UserError(f"{path} holds weights: the {kind} comes first, its name or YAML file")
    if path.suffix in {".yaml", ".yml"} or "/" in name_or_path:
        if not os.path.isfile(path):  # False for a name that is too long, where is_file() raises
            raise UserError(f"{kind} file not found: {path}; {_hint_for_file(path, folder)}")
        return path
    candidate = folder / f"{name_or_path}.yaml"
    if not os.path.isfile(candidate):
        other, option = ("sweep", "--sweep") if kind == "experiment" else ("experiment", "--exp")
        names = sorted(p.stem for p in folder.glob("*.yaml"))
        hint = did_you_mean(name_or_path, names) if names else f"the folder holds no {kind}s"
        if os.path.isfile(folder.parent / f"{other}s" / candidate.name):
            command = f"python pipelines/submit.py {option} {name_or_path}"
            hint = f"the {other} of that name is run by {command}; or {hint}"
        raise UserError(f"unknown {kind} '{name_or_path}' in {folder}: {hint}")
    return candidate


def _hint_for_file(path: Path, folder: Path) -> str:
    if os.path.isdir(path):
        ran = path / "experiment.yaml"
        return f"that is a folder; its experiment is {ran}" if ran.is_file() else "it is a folder"
    if os.path.isfile(folder / f"{path.stem}.yaml"):
        return f"{folder} has one of that name: {path.stem}"
    if not os.path.isdir(path.parent):
        return f"there is no folder {path.parent}"
    return did_you_mean(path.name, sorted(p.name for p in path.parent.glob("*.y*ml")) or ["(none)"])


def resolve_experiment(text: str, path: Path) -> Experiment:
    """Resolve the text of an experiment file, with its base looked up relative to `path`."""
    _, values = _merged(_chain(parse_yaml(text, str(path)), path))
    return parse_experiment(values, source=str(path))


def _read(path: Path) -> dict[str, Any]:
    return parse_yaml(read_text(path), str(path))


def _chain(values: dict[str, Any], path: Path) -> Chain:
    """A document and its bases, each without the key `base`."""
    chain = [(path, values)]
    while (name := values.pop("base", None)) is not None:
        if not isinstance(name, str):
            raise UserError(f"{path}: base: {describe(name)}: expected the name of an experiment")
        beside = path.parent / f"{name}.yaml"
        # An experiment may change the shipped one of its own name.
        if os.path.isfile(beside) and not _is_same(beside, path):
            path = beside
        else:
            path = find_document(name, experiments_dir(), "experiment")
        circle = any(_is_same(path, known) for known, _ in chain)
        if circle or len(chain) > MAX_BASES:
            names = " -> ".join(each.stem for each in [*(known for known, _ in chain), path])
            what = "its bases form a circle" if circle else f"more than {MAX_BASES} bases"
            raise UserError(f"{chain[0][0]}: {what}: {names}")
        values = _read(path)
        chain.append((path, values))
    return chain[::-1]


def _is_same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _merged(chain: Chain) -> tuple[Chain, dict[str, Any]]:
    """The documents with short keys spelled out, and the mapping that they merge to."""
    spelled_out: Chain = []
    merged: dict[str, Any] = {}
    # An experiment and all those based on it share one registered model, whatever the names of the
    # others and of their sweeps.
    if is_name(family := chain[0][1].get("exp_name")):
        merged["registry"] = {"model": family}
    for path, values in chain:
        spelled_out.append((path, spell_out(values, merged, str(path))))
        own = spelled_out[-1][1].get("skeleton")
        if isinstance(own, dict):
            base = _base_skeleton(merged.get("skeleton"), own, str(path))
            merged = merged | {"skeleton": base}
        merged = merge(merged, spelled_out[-1][1])
    return spelled_out, merged


def _base_skeleton(base: Any, own: dict[str, Any], where: str) -> Any:
    """The skeleton that keys below `skeleton` change, of what is inherited."""
    if "keypoints" in own:
        return {}  # the other keys are of other names
    if base == AUTO:
        raise UserError(
            f"{where}: skeleton: {', '.join(own)}: the keypoints are those of the training file "
            "(auto): give keypoints, too; `sdpose skeleton show` prints them"
        )
    if base in PRESET_NAMES:
        return preset(base).model_dump(mode="json")
    return {} if base is None else base


def _origins(experiment: Experiment, chain: Chain, given_by: dict[str, str]) -> dict[str, str]:
    """Origins by dotted key: options override files, later files of the chain earlier ones."""
    origins = {}
    files = [(str(path), flatten(values)) for path, values in chain]
    for key in flatten(experiment.model_dump(mode="json")):
        origins[key] = "default"
        for path, values in files:
            # A parent that is not a mapping (null, for example) sets all keys below it.
            if any(key == known or key.startswith(f"{known}.") for known in values):
                origins[key] = path
        for option, text in given_by.items():
            if key == option or key.startswith(f"{option}."):
                origins[key] = text
    return origins


def _apply_override(values: dict[str, Any], override: str, given_by: dict[str, str]) -> None:
    by = override.by if isinstance(override, Override) else "--set"
    given = f"{by} {override}"
    name, equals, text = override.partition("=")
    name = name.strip()
    if not equals or not all(name.split(".")):
        raise UserError(f"{given}: expected key.path=value, as in --set optimizer.lr=1e-4")
    try:
        value = parse_yaml_value(text, f"{by} {name}")
    except DocumentError as error:
        raise UserError(f"{error}; quote it if it is text") from None
    try:
        paths = full_paths(name, values)
    except UserError as error:
        raise UserError(f"{given}: {error}") from None
    for path in paths:
        if path.startswith("skeleton."):
            key, before = path.partition(".")[2], values.get("skeleton")
            base = _base_skeleton(before, {key: value}, given)
            if isinstance(before, dict):  # what other options have set stays
                base |= {k: v for k, v in before.items() if f"skeleton.{k}" in given_by}
            values["skeleton"] = base
        _set(values, path, value, given)
        given_by[path] = given


def _set(values: dict[str, Any], path: str, value: Any, given: str) -> None:
    keys = path.split(".")
    node = values
    for depth, key in enumerate(keys[:-1], start=1):
        child = node.get(key)
        if child is not None and not isinstance(child, dict):
            raise UserError(f"{given}: '{'.'.join(keys[:depth])}' has no keys below it")
        node[key] = dict(child or {})
        node = node[key]
    node[keys[-1]] = value
