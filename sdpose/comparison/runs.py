"""Runs from their work dirs, those of one configuration together whatever their seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdpose.comparison.spread import Difference, Spread, difference
from sdpose.config import Experiment, flatten, parse_experiment
from sdpose.documents import MAX_YAML_BYTES, read_bytes
from sdpose.errors import UserError, did_you_mean
from sdpose.report.history import read_history
from sdpose.training.changes import PLACES
from sdpose.training.layout import EXPERIMENT_FILE

# What tells runs apart, and not configurations.
NAMES = ("exp_name", "seed", *PLACES)
METRICS = ("AP", "AP .5", "AP .75", "AP (M)", "AP (L)", "AR")


@dataclass(frozen=True)
class Run:
    work_dir: Path
    experiment: Experiment
    epoch: int  # of its best AP
    metrics: dict[str, float]  # of that evaluation


@dataclass(frozen=True)
class Configuration:
    """The runs that differ in name, place and seed alone."""

    runs: tuple[Run, ...]
    settings: dict[str, Any]  # dotted keys

    @property
    def name(self) -> str:
        """The common beginning of its runs' names."""
        names = [run.experiment.exp_name for run in self.runs]
        shared = names[0]
        for name in names[1:]:
            while not name.startswith(shared):
                shared = shared[:-1]
        return shared.rstrip("-_.") if len(names) > 1 and len(shared) > 3 else names[0]

    def spread(self, metric: str) -> Spread | None:
        values = [run.metrics[metric] for run in self.runs if run.metrics.get(metric, -1) >= 0]
        return Spread.of(values) if values else None


@dataclass(frozen=True)
class Comparison:
    """Configurations in the order in which they were named; the first is what others are held
    against."""

    configurations: tuple[Configuration, ...]

    @property
    def settings(self) -> dict[str, list[Any]]:
        """The keys in which they differ, and the value of each of them."""
        every = [configuration.settings for configuration in self.configurations]
        keys = dict.fromkeys(key for settings in every for key in settings)
        rows = {key: [settings.get(key) for settings in every] for key in keys}
        return {key: row for key, row in rows.items() if any(v != row[0] for v in row)}

    def differences(self, metric: str) -> list[Difference | None]:
        """Of each configuration to the first."""
        first, *others = (c.spread(metric) for c in self.configurations)
        return [None, *(difference(first, o) if first and o else None for o in others)]


def compare(names: Sequence[str]) -> Comparison:
    """names: work dirs, or experiments' names below work_dirs. Raises UserError for one that is
    none, or has not been evaluated yet."""
    groups: dict[str, list[Run]] = {}
    settings: dict[str, dict[str, Any]] = {}
    for folder in dict.fromkeys(_work_dir(name) for name in names):
        run = _read(folder)
        values = flatten(run.experiment.model_dump(mode="json"))
        values = {key: value for key, value in values.items() if key not in NAMES}
        groups.setdefault(repr(values), []).append(run)
        settings[repr(values)] = values
    return Comparison(
        tuple(Configuration(tuple(runs), settings[key]) for key, runs in groups.items())
    )


def _work_dir(name: str) -> Path:
    for folder in (Path(name), Path("work_dirs") / name):
        if (folder / EXPERIMENT_FILE).is_file():
            return folder
    known = sorted(path.parent.name for path in Path("work_dirs").glob(f"*/{EXPERIMENT_FILE}"))
    hint = did_you_mean(name, known) if known else "work_dirs holds no runs"
    raise UserError(f"{name}: no work dir of a run, and none of that name in work_dirs: {hint}")


def _read(folder: Path) -> Run:
    path = folder / EXPERIMENT_FILE
    experiment = parse_experiment(read_bytes(path, MAX_YAML_BYTES), source=str(path))
    rows = read_history(folder).evaluations
    if not rows:
        raise UserError(
            f"{folder}: this run has not been evaluated yet (evaluation.interval: "
            f"{experiment.evaluation.interval} epochs)"
        )
    best = max(rows, key=lambda row: row["AP"])
    metrics = {name: float(best[name]) for name in METRICS if name in best}
    return Run(folder, experiment, int(best["epoch"]), metrics)
