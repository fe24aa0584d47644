"""Runs from their work dirs, best first; those that differ in their seed alone are one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdpose.comparison.spread import Difference, Spread, difference
from sdpose.config import Experiment, parse_experiment, summary_values
from sdpose.documents import MAX_YAML_BYTES, read_bytes, read_json
from sdpose.errors import UserError, did_you_mean
from sdpose.metric_names import SHOWN
from sdpose.registry.register_run import SUMMARY
from sdpose.report.history import read_history
from sdpose.runner.experiment_changes import PLACES
from sdpose.training.paths import EXPERIMENT_FILE

# What tells runs apart, and not configurations.
NAMES = ("exp_name", "seed", *PLACES)
# What changes the AP of the same weights. modulate_kernel belongs to the size of the heatmaps.
OF_EVALUATION = (
    *("skeleton", "evaluation.metric", "data_cfg.vis_thr", "data_cfg.oks_thr", "data_cfg.soft_nms"),
    *(f"model.test_cfg.{key}" for key in ("flip_test", "post_process", "shift_heatmap")),
)
OF_DETECTIONS = ("data_cfg.bbox_file", "data_cfg.det_bbox_thr")
UNKNOWN = "not recorded"


@dataclass(frozen=True)
class Run:
    work_dir: Path
    experiment: Experiment
    epoch: int  # of its best AP
    metrics: dict[str, float]  # of that evaluation
    evaluated_on: Mapping[str, Any]  # dataset, boxes and settings: only equal ones compare


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

    @property
    def evaluated_on(self) -> Mapping[str, Any]:
        return self.runs[0].evaluated_on

    def spread(self, metric: str) -> Spread | None:
        values = [run.metrics[metric] for run in self.runs if run.metrics.get(metric, -1) >= 0]
        return Spread.of(values) if values else None


@dataclass(frozen=True)
class Comparison:
    """Configurations by their mean AP; the first is what others are held against."""

    configurations: tuple[Configuration, ...]
    skipped: tuple[str, ...] = ()
    """What was named and is no run, with the reason."""

    @property
    def settings(self) -> dict[str, list[Any]]:
        """The keys in which they differ, and the value of each of them."""
        return _differing([configuration.settings for configuration in self.configurations])

    @property
    def evaluations(self) -> dict[str, list[Any]]:
        """In what they were evaluated differently; {}: their AP compares."""
        return _differing([dict(c.evaluated_on) for c in self.configurations])

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that any of the runs has."""
        runs = [run for configuration in self.configurations for run in configuration.runs]
        return tuple(name for name in SHOWN if any(name in run.metrics for run in runs))

    def differences(self, metric: str) -> list[Difference | None]:
        """Of each configuration to the first; None where it was evaluated on something else."""
        first, *others = self.configurations
        base = first.spread(metric)
        found: list[Difference | None] = [None]
        for other in others:
            spread, same = other.spread(metric), other.evaluated_on == first.evaluated_on
            found.append(difference(base, spread) if base and spread and same else None)
        return found


def compare(names: Sequence[str], *, anyway: bool = False) -> Comparison:
    """The runs of work dirs, or of experiments' names below work_dirs.

    Files and folders that hold no evaluated run are skipped, if any other is one.

    Raises:
        UserError: there is no run of a name, none of all was evaluated, or they were evaluated on
            different data, boxes or settings, and not `anyway`.
    """
    runs, skipped = [], []
    for name in dict.fromkeys(names):
        try:
            runs.append(_read(_work_dir(name)))
        except NoRunError as error:
            skipped.append(error)
    if not runs:
        raise skipped[0]
    groups: dict[str, list[Run]] = {}
    settings: dict[str, dict[str, Any]] = {}
    for run in _with_data_by_place(runs):
        values = summary_values(run.experiment)
        values = {key: value for key, value in values.items() if key not in NAMES}
        key = repr((values, run.evaluated_on))
        groups.setdefault(key, []).append(run)
        settings[key] = values
    found = [Configuration(tuple(runs), settings[key]) for key, runs in groups.items()]
    found.sort(key=lambda c: spread.mean if (spread := c.spread("AP")) else -1.0, reverse=True)
    comparison = Comparison(tuple(found), tuple(str(e).splitlines()[0] for e in skipped))
    if comparison.evaluations and not anyway:
        raise UserError(_refusal(comparison))
    return comparison


class NoRunError(UserError):
    """What was named is there, and holds no evaluated run."""


def _differing(columns: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    keys = dict.fromkeys(key for values in columns for key in values)
    rows = {key: [values.get(key) for values in columns] for key in keys}
    return {key: row for key, row in rows.items() if any(v != row[0] for v in row)}


def by_value(values: Iterable[str], names: Sequence[str]) -> dict[str, list[str]]:
    """Whose value it is. names: of the configurations that have the values."""
    found: dict[str, list[str]] = {}
    for value, name in zip(values, names, strict=True):
        found.setdefault(value, []).append(name)
    return found


def _refusal(comparison: Comparison) -> str:
    lines = ["the runs were evaluated differently, so that their AP does not compare:"]
    names = [configuration.name for configuration in comparison.configurations]
    for key, values in comparison.evaluations.items():
        for value, named in by_value(map(str, values), names).items():
            more = f" and {len(named) - 3} more" if len(named) > 3 else ""
            lines.append(f"  {key} {value}: {', '.join(named[:3])}{more}")
    return "\n".join([*lines, "compare those of one kind, or give --anyway to see all of them"])


def _work_dir(name: str) -> Path:
    for folder in (Path(name), Path("work_dirs") / name):
        if (folder / EXPERIMENT_FILE).is_file():
            return folder
    if Path(name).exists():
        raise NoRunError(f"{name}: no work dir of a run")
    known = sorted(path.parent.name for path in Path("work_dirs").glob(f"*/{EXPERIMENT_FILE}"))
    hint = did_you_mean(name, known) if known else "work_dirs holds no runs"
    raise UserError(f"{name}: no work dir of a run, and none of that name in work_dirs: {hint}")


def _read(folder: Path) -> Run:
    path = folder / EXPERIMENT_FILE
    try:
        experiment = parse_experiment(read_bytes(path, MAX_YAML_BYTES), source=str(path))
    except UserError as error:  # damaged, or of another version
        raise NoRunError(str(error)) from None
    history = read_history(folder)
    if not history.evaluations:
        raise NoRunError(
            f"{folder}: this run has not been evaluated yet (evaluation.interval: "
            f"{experiment.evaluation.interval} epochs)"
        )
    best = max(history.evaluations, key=lambda row: row["AP"])
    metrics = {name: float(best[name]) for name in SHOWN if name in best}
    boxes = str(best.get("bbox_source", UNKNOWN))
    values = summary_values(experiment)
    chosen = (*OF_EVALUATION, *(OF_DETECTIONS if boxes == "detections" else ()))
    digest = history.header.get("dataset_digest") or _digest_in_summary(folder)
    evaluated_on = {
        "dataset": str(digest)[:12] if digest else "",
        "boxes": boxes,
        **{key: values.get(key) for key in chosen},
    }
    return Run(folder, experiment, int(best["epoch"]), metrics, evaluated_on)


def _digest_in_summary(folder: Path) -> Any:
    with contextlib.suppress(UserError, LookupError, TypeError):
        return read_json(folder / SUMMARY)["dataset_digest"]
    return None


def _with_data_by_place(runs: Sequence[Run]) -> list[Run]:
    """Runs of earlier versions did not record their dataset's digest: the same place is the same
    data then."""

    def place(run: Run) -> str:
        return f"{Path(run.experiment.data_root).absolute()}: {run.experiment.data.val.ann_file}"

    known = {place(run): run.evaluated_on["dataset"] for run in runs if run.evaluated_on["dataset"]}
    return [
        run
        if run.evaluated_on["dataset"]
        else Run(
            *(run.work_dir, run.experiment, run.epoch, run.metrics),
            {**run.evaluated_on, "dataset": known.get(place(run), f"in {place(run)}")},
        )
        for run in runs
    ]
