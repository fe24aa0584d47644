"""One trial of a sweep, whose failure is a result like others."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace

from sdpose.comparison.trial_outcome import TrialOutcome
from sdpose.config import Experiment
from sdpose.errors import USER_ERROR_EXIT_CODE, UserError
from sdpose.runner.launch import STOPPED, train_on_this_machine
from sdpose.tracking import PARENT_RUN_VARIABLE, sweep_run
from sdpose.training.result import TrainResult

log = logging.getLogger(__name__)

# KFP hands the outcomes of all trials to one step, in one argument of at most 128 KiB.
MAX_MESSAGE = 300


def parent_run(sweep: str, experiment: Experiment) -> str:
    """The id of the sweep's own run in MLflow, made if there is none; "" without MLflow."""
    hooks = experiment.log_config.hooks
    return sweep_run(sweep) if any(hook.type == "MlflowLoggerHook" for hook in hooks) else ""


def run_trial(
    sweep: str, experiment: Experiment, train: Callable[[dict[str, str]], TrainResult]
) -> TrialOutcome:
    """Trains, and tells how it ended instead of raising; a request to end (SIGTERM) still raises.

    train: trains the experiment, here or in a job, with more environment variables; or returns what
    an earlier run of it has left.
    """
    name = experiment.exp_name
    try:
        result = train({PARENT_RUN_VARIABLE: parent_run(sweep, experiment)})
    except UserError as error:
        log.error(error)
        return TrialOutcome(name, "failed", message=_first_line(str(error)))
    except SystemExit as end:
        if end.code in STOPPED:
            raise
        wrong = "an error in its input" if end.code == USER_ERROR_EXIT_CODE else "a crash"
        message = f"{wrong} (exit code {end.code}); its output says more"
        return TrialOutcome(name, "failed", message=message)
    except Exception as error:
        traceback.print_exc()
        return TrialOutcome(name, "failed", message=_first_line(f"{type(error).__name__}: {error}"))
    best = result.best_checkpoint or result.last_checkpoint
    return TrialOutcome(
        name,
        "stopped" if result.stopped else "finished",
        ap=result.best_metrics["AP"],
        epochs=result.epochs,
        checkpoint=str(best.absolute()),
        mlflow_run_id=result.mlflow_run_id or "",
        message=_first_line(result.stopped),
        dataset_digest=result.dataset_digest,
    )


def outcomes_on(outcomes: Sequence[str], dataset_digest: str) -> list[TrialOutcome]:
    """From JSON. A trial that an earlier sweep has trained on other data counts as failed: its
    weights have not seen this dataset, and its AP cannot be compared."""
    found = []
    for outcome in map(TrialOutcome.from_json, outcomes):
        before = outcome.dataset_digest
        if outcome.status != "failed" and before not in ("", dataset_digest):
            message = (
                f"trained on other data (digest {before[:12]}, now {dataset_digest[:12]}): bring "
                "it back, or train again with --overwrite"
            )
            outcome = replace(outcome, status="failed", ap=None, message=message)
        found.append(outcome)
    return found


def run_trial_here(sweep: str, experiment: Experiment, *, overwrite: bool) -> TrialOutcome:
    """`run_trial` on the GPUs of this machine that are visible."""

    def train(environment: dict[str, str]) -> TrainResult:
        os.environ.update(environment)
        return train_on_this_machine(experiment, overwrite=overwrite)

    return run_trial(sweep, experiment, train)


def _first_line(text: str) -> str:
    return text.partition("\n")[0][:MAX_MESSAGE]
