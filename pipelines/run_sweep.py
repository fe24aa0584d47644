"""A sweep, from its file to the ranking: on this machine or on a cluster."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.console import say
from pipelines.local.gpus import visible_gpus
from pipelines.local.run_local import PIPELINE_FOLDER, compile_here, run_steps
from pipelines.sweep_pipeline import make_sweep_pipeline
from sdpose.cli.text import format_rows
from sdpose.code_version import code_version
from sdpose.config import dump_experiment
from sdpose.config.keys import as_yaml
from sdpose.errors import UserError
from sdpose.files import matching
from sdpose.sweeps import Sweep, Trial

SWEEPS_FOLDER = "sweeps"
# Linux takes no argument beyond 128 KiB, and KFP hands all trials and their outcomes on in one.
MAX_BYTES = 100_000
OUTCOME_BYTES = 700


@dataclass(frozen=True)
class SweepRun:
    """A sweep and its trials, as the pipeline takes them."""

    sweep: Sweep
    trials: list[Trial]
    parallel: int

    def arguments(self, code: str, runner: str, cluster_profile: str = "") -> dict[str, Any]:
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


def plan(sweep: Sweep, trials: list[Trial], comment: str = "") -> None:
    """Says what would run."""
    say(f"{comment}sweep {sweep.name}: {len(trials)} trials of {sweep.base}")
    for trial in trials:
        say(f"{comment}  {trial.name}")


def summary(run: SweepRun) -> list[str]:
    """What would run: a line for each trial, with its values."""
    sweep, trials = run.sweep, run.trials
    names = list(dict.fromkeys(name for trial in trials for name in trial.settings))
    rows = [[_shown(trial.settings.get(name, "")) for name in names] for trial in trials]
    if sweep.seeds:
        names.append("seed")
        rows = [[*row, str(t.experiment.seed)] for row, t in zip(rows, trials, strict=True)]
    shared = ", ".join(f"{name} {_shown(value)}" for name, value in sweep.set.items())
    stopping = sweep.early_stopping
    return [
        f"sweep {sweep.name}: {len(trials)} trials of {sweep.base}, {run.parallel} at a time",
        *([f"all: {shared}"] if shared else []),
        *([f"early stopping: from epoch {stopping.min_epochs}"] if stopping else []),
        *format_rows(["", *names], [["", *row] for row in rows]).splitlines(),
        f"work dirs: {trials[0].experiment.work_dir}" + " ..." * (len(trials) > 1),
    ]


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else as_yaml(value)


def run_sweep_here(
    sweep: Sweep,
    trials: list[Trial],
    work_root: Path,
    *,
    parallel: int | None,
    cache: bool,
    overwrite: bool,
    dry_run: bool,
) -> None:
    """Runs it on this machine. parallel: None takes the sweep's limit, but one trial for each GPU
    at most."""
    count = parallel or min(sweep.limits.parallel, max(1, len(visible_gpus())))
    run = SweepRun(sweep, trials, min(count, len(trials)))
    folder = work_root / SWEEPS_FOLDER / sweep.name
    package = folder / PIPELINE_FOLDER / "sdpose_sweep.yaml"
    pipeline = make_sweep_pipeline(parallel=run.parallel, overwrite=overwrite)
    arguments = run.arguments(code_version(), "local")
    compile_here(pipeline, package)
    if dry_run:
        for line in [*summary(run), f"compiled pipeline: {package.absolute()}"]:
            say(f"# {line}")
        return
    plan(sweep, trials)
    report = folder / "report.html"
    report.unlink(missing_ok=True)
    say(f"{run.parallel} at a time; results: {folder}")
    try:
        run_steps(pipeline, arguments, folder / PIPELINE_FOLDER, cache=cache, parallel=run.parallel)
    finally:
        for artifact, name in {"report": "report.html", "table": "ranking.md"}.items():
            for made in matching(
                folder / PIPELINE_FOLDER / "artifacts", f"*/rank-trials/{artifact}"
            ):
                shutil.copyfile(made, folder / name)
        if report.is_file():
            say(f"report: {report}")
            say(f"all trials: sdpose compare {work_root}/{sweep.name}-*; sdpose ui")
