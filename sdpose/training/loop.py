"""The training loop: epochs, evaluation, checkpoints, and resuming after an interruption.

    train_epochs       from the run's position to the last epoch
      _train_steps     the steps of one epoch, and their log
        train_step     (step.py)

The loop knows only protocols for where checkpoints go (outputs.py), who listens (events.py) and who
may stop it (stop.py). `sdpose train` attaches mirrors, trackers and signals to them, see
sdpose.runner.train.

`latest.pth` is written at the end of every epoch and every checkpoint_config.interval_minutes
within one, so a run that is killed loses a few minutes. A run that is asked to stop saves after the
current step and loses nothing. An epoch that is evaluated is saved before and after, so a kill
during the evaluation loses no training.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import resource
import sys
import time

import torch

from sdpose import __version__
from sdpose.config import Experiment, dump_experiment, experiment_digest
from sdpose.evaluation import evaluate
from sdpose.training.checkpoint import FORMAT, Checkpoint
from sdpose.training.distributed import PREPARE_TIMEOUT, SharedStop, on_main
from sdpose.training.divergence import DivergedError
from sdpose.training.events import EpochRecord, EvaluationRecord, TrainRecord
from sdpose.training.log_lines import duration
from sdpose.training.meters import Window
from sdpose.training.parallel_model import average_buffers, unchanged_buffers
from sdpose.training.recovery import recovers, recovers_from_drop, say_bad_steps
from sdpose.training.result import checkpoint_names
from sdpose.training.run import Run
from sdpose.training.step import train_step

# SharedStop agrees on this or on the number of a signal, all of which are larger.
SAVE = 1


def train_epochs(run: Run) -> None:
    """Train to `total_epochs` or to an early stop; every process calls this.

    Raises:
        DivergedError: the loss is not finite or too many steps in a row are bad, and on_divergence
            is not `rollback` or rolling back did not help.
    """
    if run.progress.epoch and not run.progress.iteration_in_epoch:
        _finish_epoch(run)  # the run may have been killed between an epoch and its evaluation
    for epoch in range(run.progress.epoch + 1, run.experiment.total_epochs + 1):
        if run.progress.stopped:
            break
        with run.stop.deferred():
            ends = _train_epoch(run, epoch)
            _save(run)
            if ends:  # every rank exits only after rank 0 has the checkpoint on disk
                on_main(run.world, run.outputs.flush)
        _finish_epoch(run)


def _train_epoch(run: Run, epoch: int) -> bool:
    """`_train_steps`; with `on_divergence: rollback` again after every divergence."""
    for rollbacks in itertools.count():
        try:
            return _train_steps(run, epoch)
        except DivergedError as error:
            if not recovers(run, error, rollbacks):
                raise
    raise AssertionError


def _train_steps(run: Run, epoch: int) -> bool:
    """Train the rest of an epoch, or up to a request to stop, to the same step on all ranks.

    Returns whether a stop was requested; the same on all ranks.
    """
    progress, clip = run.progress, run.experiment.optimizer_config.grad_clip
    cumulative_iters = run.experiment.optimizer_config.cumulative_iters
    window, shared_stop = Window(run.world, run.watch), SharedStop(run.world)
    seconds_before = progress.seconds
    lr, requested, save_due, complete = 0.0, 0, False, False
    if progress.iteration_in_epoch == len(run.loader):  # rolled back at the epoch's last window
        progress.complete_epoch()
        return False
    run.parallel_model.train()
    run.stopwatch.restart()
    loaded = run.options.on_device(
        run.stopwatch.waiting_for(run.loader.epoch(epoch, progress.iteration_in_epoch))
    )
    while batches := list(itertools.islice(loaded, cumulative_iters)):
        lr = run.schedule(progress.iteration)
        values = train_step(
            run.parallel_model,
            run.loss,
            run.optimizer,
            batches,
            lr=lr,
            max_norm=clip.max_norm if clip else None,
            norm_type=clip.norm_type if clip else 2.0,
            autocast=run.options.autocast(),
            scaler=run.scaler,
            is_bad=run.watch.is_bad,
            skip_bad=run.experiment.on_divergence == "skip_step",
        )
        if run.average is not None:
            run.average.update(progress.iteration)
        progress.iteration += 1
        progress.iteration_in_epoch += 1
        window.add(lr, [batch["sample_ids_N"] for batch in batches], values)
        run.events.progress(progress.iteration)
        requested = shared_stop(run.stop.received or SAVE * run.outputs.is_due)
        complete = progress.iteration_in_epoch == len(run.loader)
        save_due = save_due or requested == SAVE
        if requested > SAVE or complete or len(window) == run.experiment.log_config.interval:
            _log_steps(run, window, epoch, lr)
            if save_due and not complete:
                save_due = False
                _save(run, inside_epoch=True)
        if requested > SAVE:
            break
    requested = max(requested, shared_stop.settle())
    run.stop.adopt(requested)
    if complete:
        run.events.epoch(
            EpochRecord(
                epoch=epoch,
                total_epochs=run.experiment.total_epochs,
                iteration=progress.iteration,
                lr=lr,
                seconds=progress.seconds - seconds_before,
                total_seconds=progress.seconds,
                values=progress.averages(),
            )
        )
        progress.complete_epoch()
    return requested > SAVE


def _log_steps(run: Run, window: Window, epoch: int, lr: float) -> None:
    """Log a window of steps: the only place where the host waits for the device."""
    progress, steps = run.progress, len(window)
    values, bad_steps = window.flush(progress)
    say_bad_steps(run, bad_steps)
    seconds, waited = run.stopwatch.window(steps)
    progress.seconds += seconds
    record = TrainRecord(
        epoch=epoch,
        iteration_in_epoch=progress.iteration_in_epoch,
        iterations_per_epoch=len(run.loader),
        iteration=progress.iteration,
        lr=lr,
        eta=_seconds_left(run),
        time=seconds / steps,
        data_time=waited / steps,
        memory=_peak_memory_mb(run.world.device),
        samples_per_second=steps * progress.global_batch / seconds,
        values=values,
    )
    run.events.train(record)
    run.events.progress(
        progress.iteration,
        f"epoch {epoch}/{run.experiment.total_epochs}  loss {values.get('loss', math.nan):.4g}  "
        f"{record.samples_per_second:.0f} samples/s  {duration(record.eta)} left",
    )


def _seconds_left(run: Run) -> float:
    """Until the end of the run, including evaluations, at the speed of this process so far."""
    experiment, progress = run.experiment, run.progress
    steps_left = len(run.loader) * experiment.total_epochs - progress.iteration
    epochs_left = range(progress.epoch + 1, experiment.total_epochs + 1)
    evaluations_left = sum(_is_evaluated(experiment, epoch) for epoch in epochs_left)
    per_step = run.stopwatch.run_seconds / run.stopwatch.run_steps
    return steps_left * per_step + evaluations_left * run.evaluation_seconds


def _peak_memory_mb(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) // 2**20
    unit = 1 if sys.platform == "darwin" else 2**10  # of ru_maxrss: bytes on macOS, else kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 2**20


# -------------------------------------------------------------------------- the end of an epoch


def _is_evaluated(experiment: Experiment, epoch: int) -> bool:
    return epoch % experiment.evaluation.interval == 0 or epoch >= experiment.total_epochs


def _finish_epoch(run: Run) -> None:
    """Evaluate if due, and name the checkpoint. Idempotent."""
    experiment, progress = run.experiment, run.progress
    epoch = progress.epoch
    if _is_evaluated(experiment, epoch) and progress.evaluated_epoch < epoch:
        _evaluate(run)
        progress.stopped = on_main(
            run.world,
            lambda: run.early_stop(epoch, progress.metrics["AP"]),
            timeout=PREPARE_TIMEOUT,  # a store may be slow
        )
        with run.stop.deferred():
            _save(run)
    run.outputs.name(checkpoint_names(experiment, progress))
    if progress.evaluated_epoch == epoch:
        with run.stop.deferred():
            if recovers_from_drop(run):
                _save(run)


def _evaluate(run: Run) -> None:
    experiment, progress = run.experiment, run.progress
    epoch, started = progress.epoch, time.perf_counter()

    def show(done: int, total: int) -> None:
        run.events.progress(progress.iteration, f"epoch {epoch}  evaluating {done}/{total}")

    run.is_evaluating = True
    result = evaluate(
        run.evaluated_model,
        experiment,
        device=run.world.device,
        skip_images=run.skip_images.val,
        missing_detections="use_gt_bbox",
        progress=show,
    )
    run.is_evaluating = False
    run.evaluation_seconds = time.perf_counter() - started
    progress.evaluated_epoch = epoch
    progress.metrics = {name: float(value) for name, value in result.metrics.items()}
    chosen = experiment.evaluation.save_best
    if chosen and (
        not progress.best_epoch
        or progress.metrics.get(chosen, -1) > progress.best_metrics.get(chosen, -1)
    ):
        progress.best_epoch, progress.best_metrics = epoch, progress.metrics
    run.events.evaluation(
        EvaluationRecord(
            epoch=epoch,
            iteration=progress.iteration,
            bbox_source=result.bbox_source,
            seconds=run.evaluation_seconds,
            metrics=progress.metrics,
            best_ap=progress.best_metrics.get("AP"),
        )
    )


def _save(run: Run, *, inside_epoch: bool = False) -> None:
    """Write `latest.pth`; every rank calls this."""
    shares_statistics = run.world.size == 1 or run.experiment.sync_bn
    with contextlib.ExitStack() as undo:
        if not shares_statistics:
            for model in dict.fromkeys([run.model, run.evaluated_model]):  # once if the same
                if inside_epoch:  # the time of a save must not affect the training
                    undo.enter_context(unchanged_buffers(model))
                average_buffers(model, run.world)
        run.outputs.save(_content(run))


def _content(run: Run) -> Checkpoint:
    content: Checkpoint = {"state_dict": run.evaluated_model.state_dict()}
    if run.average is not None:
        content["training_state_dict"] = run.model.state_dict()
    if run.scaler is not None:
        content["scaler"] = run.scaler.state_dict()
    return {
        **content,
        "usual_loss": run.watch.state,
        "optimizer": run.optimizer.state_dict(),
        "meta": {
            "format": FORMAT,
            "sdpose_version": __version__,
            "experiment": dump_experiment(run.experiment),
            "experiment_digest": experiment_digest(run.experiment),
            "dataset_digest": run.dataset_digest,
            "mlflow_run_id": run.mlflow_run_id,
            **run.progress.meta(),
        },
    }
