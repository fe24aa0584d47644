"""Experiments from the mmpose 0.x configurations of SDPose's users (Python files)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdpose.config.document import parse_yaml
from sdpose.config.load import (
    dump_experiment,
    dump_yaml,
    experiments_dir,
    load_with_origins,
    parse_experiment,
    resolve_experiment,
)
from sdpose.config.schema import Experiment
from sdpose.errors import UserError
from sdpose.printable import printable_line
from sdpose.tools.mmpose_import.fence import translate_in_child
from sdpose.tools.mmpose_import.report import Report, with_name_hint

# An imported experiment states its differences from the nearest of these.
BASES = ("sdpose_t", "sdpose_s_v1", "sdpose_s_v2", "sdpose_b")


@dataclass(frozen=True)
class ImportedExperiment:
    experiment: Experiment
    text: str
    """The experiment file: one base and what differs, with `unsupported` as a comment."""
    report: Report

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


def import_config(path: Path, exp_name: str | None = None) -> ImportedExperiment:
    """Reads an mmpose 0.x configuration without running it, in a process with limits.

    exp_name: instead of the file's. Raises UserError if it is no such configuration, trains no
    SDPose, or has a value out of range.
    """
    translated = translate_in_child(path)
    report = Report.of(path, translated)
    values = translated["experiment"]
    if exp_name is not None:
        _rename(values, exp_name)
    try:
        experiment = parse_experiment(values, source=str(path))
    except UserError as error:
        raise with_name_hint(error, "--exp-name NAME") from None
    base, changes = _nearest_base(experiment)
    experiment = experiment.model_copy(update={"registry": load_with_origins(base)[0].registry})
    lines = [f"Imported from {path.name}."]
    if report.unsupported:
        lines.append("Not supported, and not in this experiment:")
        lines += [f"  {line}" for line in report.unsupported]
    if report.added:
        lines.append("Added:")
        lines += [f"  {line}" for line in report.added]
    document = {"base": base, "exp_name": experiment.exp_name} | changes
    imported = ImportedExperiment(
        experiment=experiment,
        text="".join(f"# {printable_line(line)}\n" for line in lines) + dump_yaml(document),
        report=report,
    )
    imported.check_as(experiments_dir() / f"{experiment.exp_name}.yaml")
    return imported


def _rename(values: dict[str, Any], exp_name: str) -> None:
    """The work dir is renamed with the experiment if it is named after it."""
    folder, _, last = str(values.get("work_dir", "")).rpartition("/")
    if folder and last == values["exp_name"]:
        values["work_dir"] = f"{folder}/{exp_name}"
    values["exp_name"] = exp_name


def _nearest_base(experiment: Experiment) -> tuple[str, dict[str, Any]]:
    candidates = []
    for name in BASES:
        base, origins = load_with_origins(name)
        changes = _difference(_plain(base), _plain(experiment))
        changes.pop("exp_name", None)
        changes.pop("registry", None)  # the base's
        if "skeleton" in changes:  # its keys belong together: a part of them is another skeleton
            skeleton = experiment.keypoints
            changes["skeleton"] = skeleton.preset or skeleton.model_dump(mode="json")
        is_default = experiment.work_dir == f"work_dirs/{experiment.exp_name}"
        if is_default and origins["work_dir"] == "default":
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
