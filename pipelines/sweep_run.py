"""A sweep as its pipeline takes it, and as people see it before it runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pipelines.console import say
from sdpose.cli.text import format_rows
from sdpose.config import dump_experiment
from sdpose.config.keys import as_yaml
from sdpose.errors import UserError
from sdpose.sweeps import Sweep, Trial

SWEEPS_FOLDER = "sweeps"
# Linux takes no argument beyond 128 KiB, and KFP hands all trials and their outcomes on in one.
MAX_BYTES = 100_000
OUTCOME_BYTES = 700


@dataclass(frozen=True)
class SweepRun:
    """A sweep and its trials, of which `parallel` train at once."""

    sweep: Sweep
    trials: list[Trial]
    parallel: int

    def arguments(self, code: str, runner: str, cluster_profile: str = "") -> dict[str, Any]:
        """The pipeline's. Raises UserError if the trials are too many for one run."""
        trials = [
            {
                "trial": trial.name,
                "settings": json.dumps(trial.settings),
                "experiment": dump_experiment(trial.experiment, whole=False),
            }
            for trial in self.trials
        ]
        size = len(json.dumps(trials)) + OUTCOME_BYTES * len(trials)
        if size > MAX_BYTES:
            raise UserError(
                f"sweep {self.sweep.name}: {len(trials)} trials are more than one pipeline run can "
                f"carry ({size} of {MAX_BYTES} bytes): make two sweeps of it"
            )
        return {
            "sweep": self.sweep.name,
            "experiment": dump_experiment(self.trials[0].experiment),
            "trials": trials,
            "code_version": code,
            "cluster_profile": cluster_profile,
            "runner": runner,
        }

    def say_plan(self, comment: str = "") -> None:
        """Prints the names of the trials."""
        say(f"{comment}sweep {self.sweep.name}: {len(self.trials)} trials of {self.sweep.base}")
        for trial in self.trials:
            say(f"{comment}  {trial.name}")

    def summary(self) -> list[str]:
        """What would run: a line for each trial, with its values."""
        sweep, trials = self.sweep, self.trials
        names = list(dict.fromkeys(name for trial in trials for name in trial.settings))
        rows = [[_shown(trial.settings.get(name, "")) for name in names] for trial in trials]
        if sweep.seeds:
            names.append("seed")
            rows = [[*row, str(t.experiment.seed)] for row, t in zip(rows, trials, strict=True)]
        shared = ", ".join(f"{name} {_shown(value)}" for name, value in sweep.set.items())
        stopping = sweep.early_stopping
        return [
            f"sweep {sweep.name}: {len(trials)} trials of {sweep.base}, {self.parallel} at a time",
            *([f"all: {shared}"] if shared else []),
            *([f"early stopping: from epoch {stopping.min_epochs}"] if stopping else []),
            *format_rows(["", *names], [["", *row] for row in rows]).splitlines(),
            f"work dirs: {trials[0].experiment.work_dir}" + " ..." * (len(trials) > 1),
        ]


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else as_yaml(value)
