"""Report bad steps and epochs (divergence.py), and with `on_divergence: rollback` undo them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sdpose.training.checkpoint import (
    Checkpoint,
    CorruptCheckpointError,
    ForeignCheckpointError,
    load_checkpoint,
    training_weights,
)
from sdpose.training.distributed import on_main
from sdpose.training.divergence import BadStep, DivergedError
from sdpose.training.paths import LATEST
from sdpose.training.result import best_checkpoint
from sdpose.training.run import Run, position, restore

MAX_ROLLBACKS = 3  # in one epoch
STEPS_SAID = 3  # of one window


def say_bad_steps(run: Run, steps: Sequence[BadStep]) -> None:
    for step in steps[:STEPS_SAID]:
        run.events.say(str(step))
    if len(steps) > STEPS_SAID:
        run.events.say(f"and {len(steps) - STEPS_SAID} more such steps up to here")


def recovers(run: Run, error: DivergedError, rollbacks: int) -> bool:
    """Roll back to the last checkpoint's weights, if the experiment and the limit allow it.

    Args:
        rollbacks: number of rollbacks in this epoch so far.
    Returns:
        Whether training continues; the same on all ranks.
    """
    if run.experiment.on_divergence != "rollback" or rollbacks == MAX_ROLLBACKS:
        return False
    run.events.say(f"training diverged: {error.step}")
    return _roll_back(run, run.paths.checkpoints / LATEST)


def recovers_from_drop(run: Run) -> bool:
    """Report an AP far below the best; return whether training continues from the best weights."""
    progress, best = run.progress, best_checkpoint(run.experiment, run.progress)
    if best is None:
        return False
    if progress.best_metrics["AP"] - progress.metrics["AP"] < run.experiment.ap_drop:
        return False
    run.events.say(
        f"AP dropped from {progress.best_metrics['AP']:.4f} at epoch {progress.best_epoch} to "
        f"{progress.metrics['AP']:.4f} at epoch {progress.epoch}; "
        f"learning rate {run.schedule(progress.iteration - 1):.4g}"
    )
    goes_on = progress.epoch < run.experiment.total_epochs and not progress.stopped
    return goes_on and run.experiment.on_divergence == "rollback" and _roll_back(run, best)


def _roll_back(run: Run, path: Path) -> bool:
    """Restore weights, optimizer and related state, but not the position: training continues after
    the samples that diverged. Returns False if the checkpoint is missing or damaged."""

    def load() -> Checkpoint | None:
        run.outputs.flush()
        try:
            return load_checkpoint(path) if path.exists() else None
        except (CorruptCheckpointError, ForeignCheckpointError) as error:
            run.events.say(f"cannot roll back to a damaged checkpoint: {error}")
            return None

    checkpoint = on_main(run.world, load)
    if checkpoint is None:
        return False
    run.model.load_state_dict(training_weights(checkpoint))
    restore(checkpoint, run.optimizer, run.scaler, run.average, run.watch)
    run.events.say(
        f"rolled back to the weights of {path} (epoch {checkpoint['meta']['epoch']}), "
        f"going on at {position(run)}"
    )
    return True
