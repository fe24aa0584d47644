"""From a sweep's few lines of YAML to its trials, each a whole experiment."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sdpose.config.document import parse_document
from sdpose.config.load import (
    Override,
    experiment_digest,
    experiments_dir,
    find_document,
    load_experiment,
)
from sdpose.config.schema import Experiment
from sdpose.config.schema.sweep import Settings, Sweep
from sdpose.documents import read_text
from sdpose.errors import UserError

SWEEPS_VARIABLE = "SDPOSE_SWEEPS"
_UNKNOWN = "not yet known"  # the meeting place, which the trials' digest names


@dataclass(frozen=True)
class Trial:
    """One experiment of a sweep."""

    settings: dict[str, Any]
    """What sets it apart, by the sweep's own names; without the seed."""
    experiment: Experiment

    @property
    def name(self) -> str:
        return self.experiment.exp_name


def sweeps_dir() -> Path:
    """`pipelines/sweeps` of this repository, or $SDPOSE_SWEEPS."""
    configured = os.environ.get(SWEEPS_VARIABLE)
    return Path(configured) if configured else experiments_dir().parent / "sweeps"


def load_sweep(name_or_path: str) -> Sweep:
    """The sweep of a name in `pipelines/sweeps`, or of a YAML file. Raises UserError."""
    path = find_document(name_or_path, sweeps_dir(), "sweep")
    sweep = parse_document(Sweep, read_text(path), str(path))
    if not (sweep.grid or sweep.trials or sweep.seeds):
        raise UserError(f"{path}: no trials: give grid, trials or seeds")
    for key, values in sweep.grid.items():
        if not values:
            raise UserError(f"{path}: grid.{key} has no values")
    return sweep


def expand(
    sweep: Sweep, overrides: Iterable[str] = (), rungs: str | None = None, **top_level: str | None
) -> list[Trial]:
    """The trials: the grid's combinations, then the listed ones, each with every seed.

    overrides and top_level: as `load_experiment` takes them, for all trials. work_dir among them
    is the folder that holds a work dir for each. rungs: a folder or an s3:// URI; the trials meet
    there for early stopping, in a folder of their own: another set of trials has another one.
    Raises UserError naming the trial for whatever is wrong with one.
    """
    overrides = list(overrides)
    seeds: tuple[int | None, ...] = sweep.seeds or (None,)
    count = _number_of_points(sweep) * len(seeds)
    if count > sweep.limits.trials:
        raise UserError(
            f"sweep {sweep.name}: {count} trials are more than limits.trials "
            f"({sweep.limits.trials}); raise that if it is what you want"
        )
    points = list(_points(sweep))
    top_level = dict(top_level)
    folder = top_level.pop("work_dir", None) or "work_dirs"
    trials, names = [], set()
    for settings, seed in itertools.product(points, seeds):
        name = _name(sweep.name, settings, seed)
        if name in names:
            raise UserError(f"sweep {sweep.name}: the trial {name} is there twice")
        names.add(name)
        changes = [*_overrides(sweep, sweep.set), *_overrides(sweep, settings), *overrides]
        if seed is not None:
            changes.append(f"seed={seed}")
        changes += [f"exp_name={name}", f"work_dir={json.dumps(f'{folder}/{name}')}"]
        if sweep.early_stopping is not None:
            stopping = {"folder": _UNKNOWN, **sweep.early_stopping.model_dump()}
            changes.append(f"early_stopping={json.dumps(stopping)}")
        try:
            experiment = load_experiment(sweep.base, changes, **top_level)
        except UserError as error:
            raise UserError(f"sweep {sweep.name}, trial {name}: {error}") from None
        trials.append(Trial(settings, experiment))
    if sweep.early_stopping is None:
        return trials
    assert rungs is not None
    return _meeting_in(f"{rungs}/{_digest(trials)}", trials)


def _digest(trials: list[Trial]) -> str:
    """Names these trials: the AP of any others, those of an earlier sweep of the same name among
    them, say nothing about which of these is weak."""
    anywhere = {"work_dir": None, "data_root": ""}
    digests = sorted(experiment_digest(t.experiment.model_copy(update=anywhere)) for t in trials)
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:16]


def _meeting_in(folder: str, trials: list[Trial]) -> list[Trial]:
    meeting = []
    for trial in trials:
        stopping = trial.experiment.early_stopping
        assert stopping is not None
        changed = {"early_stopping": stopping.model_copy(update={"folder": folder})}
        meeting.append(replace(trial, experiment=trial.experiment.model_copy(update=changed)))
    return meeting


def _number_of_points(sweep: Sweep) -> int:
    """How many `_points` gives, without making them: ten short lists are 10^10 combinations."""
    combinations = math.prod(map(len, sweep.grid.values()))
    return combinations * bool(sweep.grid or not sweep.trials) + len(sweep.trials)


def _points(sweep: Sweep) -> Iterator[Settings]:
    if sweep.grid or not sweep.trials:
        for values in itertools.product(*sweep.grid.values()):
            yield dict(zip(sweep.grid, values, strict=True))
    yield from sweep.trials


def _overrides(sweep: Sweep, settings: Settings) -> list[str]:
    """As `--set` takes them. JSON is YAML; its numbers are read as they are meant."""
    changes: list[str] = []
    for name, value in settings.items():
        keys = sweep.keys.get(name, name)
        for key in [keys] if isinstance(keys, str) else keys:
            changes.append(Override(f"{key}={json.dumps(value)}", "the sweep's"))
    return changes


def _name(sweep: str, settings: Settings, seed: int | None) -> str:
    """A name that is a folder's and a model's, too: of letters, digits, `_`, `.` and `-`."""
    parts = [f"{key.split('.')[-1]}_{_word(value)}" for key, value in settings.items()]
    if seed is not None:
        parts.append(f"seed_{seed}")
    name = "-".join([sweep, *parts])
    if len(name) <= 96:
        return name
    return f"{name[:87]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _word(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return "".join(c if c.isalnum() or c in "_.-" else "_" for c in text).strip("_.-") or "none"
