"""Experiments from the mmpose 0.x configurations of SDPose's users (Python files)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sdpose.config.legacy.python_file import read_python_config
from sdpose.config.legacy.translate import READ_BY_MMPOSE, translate
from sdpose.config.load import dump_experiment, load_experiment, parse_experiment
from sdpose.config.schema import Experiment

# An imported experiment states its differences from the nearest of these.
BASES = ("sdpose_t", "sdpose_s_v1", "sdpose_s_v2", "sdpose_b")


@dataclass(frozen=True)
class ImportedExperiment:
    experiment: Experiment
    text: str
    """The experiment file: one base and what differs, with `unsupported` as a comment."""
    built_in: list[str]
    """Settings that are the same here without being said, as `path = value`."""
    unsupported: list[str]
    """Settings that the experiment does not keep."""
    variables: list[str]
    """Top-level names that mmpose does not read either (helpers of the file)."""


def import_config(path: Path) -> ImportedExperiment:
    """Reads an mmpose 0.x configuration without running it, see `python_file`.

    Raises UserError if it is not one, trains no SDPose, or has a value out of range.
    """
    config = read_python_config(path)
    translation = translate(config, path.stem)
    experiment = parse_experiment(translation.experiment, source=str(path))
    base, changes = _nearest_base(experiment)
    lines = [f"# Imported from {path.name}."]
    if translation.unsupported:
        lines.append("# Not supported, and not in this experiment:")
        lines += [f"#   {line}" for line in translation.unsupported]
    document = {"base": base, "exp_name": experiment.exp_name} | changes
    lines.append(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100))
    # data_cfg and data_root are used by the other settings, exp_name by us
    used = {*READ_BY_MMPOSE, "data_root", "exp_name", "data_cfg", "dataset_info"}
    return ImportedExperiment(
        experiment=experiment,
        text="\n".join(lines),
        built_in=translation.built_in,
        unsupported=translation.unsupported,
        variables=sorted(config.keys() - used),
    )


def _nearest_base(experiment: Experiment) -> tuple[str, dict[str, Any]]:
    candidates = []
    for name in BASES:
        changes = _difference(_plain(load_experiment(name)), _plain(experiment))
        changes.pop("exp_name", None)
        if experiment.work_dir == f"work_dirs/{experiment.exp_name}":
            changes.pop("work_dir", None)
        candidates.append((len(str(changes)), name, changes))
    _, name, changes = min(candidates, key=lambda candidate: candidate[0])
    return name, changes


def _plain(experiment: Experiment) -> dict[str, Any]:
    return dict(yaml.safe_load(dump_experiment(experiment)))


def _difference(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """What has to be merged into `old` to give `new`."""
    changes: dict[str, Any] = {}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            below = _difference(before, value)
            if below:
                changes[key] = below
        elif value != before:
            changes[key] = value
    return changes
