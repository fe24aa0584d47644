"""Checks that no other settings have run under the experiment's name (registry, MLflow)."""

from __future__ import annotations

from typing import Any

from sdpose import tracking
from sdpose.checks.report import Report
from sdpose.config import Experiment, summary_values
from sdpose.registry import read_version, summarize
from sdpose.registry.register_run import model_of
from sdpose.registry.withdrawals import read_withdrawals
from sdpose.runner.experiment_changes import PLACES, differences
from sdpose.storage import Store

SHOWN = 3  # differing settings
RENAME = "choose another name: --set exp_name=NAME, or exp_name in the experiment's file"


def check_registry(experiment: Experiment, registry: Store, report: Report) -> None:
    """Versions of other experiments are no problem: they are of the same model."""
    model, name = model_of(experiment), experiment.exp_name
    withdrawn = read_withdrawals(registry, model)
    rows = summarize(registry, model, withdrawn=withdrawn)
    versions = [row for row in rows if row["version"] not in withdrawn]
    if not versions:
        report.fine.append(f"name: the model registry has no {model} yet")
        return
    there = f"the model registry has {model}, up to version {versions[-1]['version']}"
    own = [row["version"] for row in versions if row["exp_name"] == name]
    if not own:
        report.fine.append(f"name: {there}, none by {name}; the next one joins them")
        return
    newest = read_version(registry, model, own[-1])
    if differing := differences(newest.manifest["experiment"], experiment):
        report.problem(
            f"name: {there}; version {newest.version} is by {name} of other settings: "
            f"{_few(differing)}",
            RENAME,
        )
    else:
        report.fine.append(f"name: {there}, by {name} of these settings; the next one joins them")


def check_mlflow(experiment: Experiment, report: Report) -> None:
    name, ours = experiment.exp_name, _as_logged(summary_values(experiment))
    runs = tracking.runs_named(name)
    for run in runs:
        differing = [
            f"{key}: {run.params[key]} -> {value}"
            for key, value in ours.items()
            if key not in PLACES and run.params.get(key, value) != value
        ]
        if differing:
            report.problem(
                f"name: MLflow has a run {name} of other settings ({run.run_id}, {run.status}): "
                f"{_few(differing)}",
                RENAME,
            )
            return
    there = f"{len(runs)} runs {name}, all of these settings" if runs else f"no run {name} yet"
    report.fine.append(f"name: MLflow has {there}")


def _as_logged(values: dict[str, Any]) -> dict[str, str]:
    return {key: str(value)[: tracking.MAX_PARAM_LENGTH] for key, value in values.items()}


def _few(differing: list[str]) -> str:
    more = len(differing) - SHOWN
    return "; ".join(differing[:SHOWN]) + (f"; and {more} more" if more > 0 else "")
