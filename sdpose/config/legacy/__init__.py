"""Experiments from the mmpose 0.x configurations of SDPose's users (Python files)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdpose.config.document import parse_yaml
from sdpose.config.legacy.fence import translate_in_child
from sdpose.config.load import (
    dump_experiment,
    dump_yaml,
    experiments_dir,
    load_experiment,
    parse_experiment,
    resolve_experiment,
)
from sdpose.config.schema import Experiment
from sdpose.errors import UserError
from sdpose.printable import printable_line

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

    def check_as(self, path: Path) -> None:
        """Raises UserError unless the text, as the file `path`, is read as the experiment."""
        try:
            read = resolve_experiment(self.text, path)
        except UserError as error:
            raise UserError(f"{path}: the imported experiment could not be read: {error}") from None
        if dump_experiment(read) != dump_experiment(self.experiment):
            raise UserError(
                f"{path}: would be read as another experiment than the one that was imported; the "
                "file that its `base:` names there is not the one that it was compared with. "
                "Choose another folder"
            )


def import_config(path: Path) -> ImportedExperiment:
    """Reads an mmpose 0.x configuration without running it, in a process with limits.

    Raises UserError if it is not one, trains no SDPose, or has a value out of range.
    """
    translated = translate_in_child(path)
    experiment = parse_experiment(translated["experiment"], source=str(path))
    base, changes = _nearest_base(experiment)
    experiment = experiment.model_copy(update={"registry": load_experiment(base).registry})
    lines = [f"Imported from {path.name}."]
    if translated["unsupported"]:
        lines.append("Not supported, and not in this experiment:")
        lines += [f"  {line}" for line in translated["unsupported"]]
    document = {"base": base, "exp_name": experiment.exp_name} | changes
    imported = ImportedExperiment(
        experiment=experiment,
        text="".join(f"# {printable_line(line)}\n" for line in lines) + dump_yaml(document),
        built_in=translated["built_in"],
        unsupported=translated["unsupported"],
        variables=translated["variables"],
    )
    imported.check_as(experiments_dir() / f"{experiment.exp_name}.yaml")
    return imported


def _nearest_base(experiment: Experiment) -> tuple[str, dict[str, Any]]:
    candidates = []
    for name in BASES:
        changes = _difference(_plain(load_experiment(name)), _plain(experiment))
        changes.pop("exp_name", None)
        changes.pop("registry", None)  # the base's
        if experiment.work_dir == f"work_dirs/{experiment.exp_name}":
            changes.pop("work_dir", None)
        candidates.append((len(str(changes)), name, changes))
    _, name, changes = min(candidates, key=lambda candidate: candidate[0])
    return name, changes


def _plain(experiment: Experiment) -> dict[str, Any]:
    return parse_yaml(dump_experiment(experiment), "experiment")


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
