"""Training an experiment: epochs, evaluation, checkpoints, and going on after an interruption.

    train            everything from the experiment to the best checkpoint
      _train_epoch   the steps of one epoch, and what is said of them
        train_step   (step.py)

One checkpoint is written at the end of every epoch (`latest.pth`), so a run that is killed loses
one epoch at most; one that is asked to stop (interrupt.py) saves after the step in progress and
loses nothing. An epoch that is evaluated is saved before and after: a kill during the evaluation
costs no training.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import resource
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sdpose import __version__
from sdpose.config import Experiment, dump_experiment, experiment_digest
from sdpose.data.prepare import PreparedDataset, prepare_coco
from sdpose.errors import UserError
from sdpose.evaluation import evaluate
from sdpose.training import checkpoint as checkpoints
from sdpose.training.checkpoint import LATEST, Checkpoint, newest_checkpoint
from sdpose.training.distributed import (
    PREPARE_TIMEOUT,
    SharedStop,
    average_buffers,
    is_main_process,
    is_peer_lost,
    is_restart,
    leave_cores_to_workers,
    on_main,
    process_group,
)
from sdpose.training.events import (
    ConsoleSink,
    EpochRecord,
    EvaluationRecord,
    Events,
    TrainRecord,
    duration,
)
from sdpose.training.interrupt import Interrupted, StopSignals
from sdpose.training.meters import Progress, Window
from sdpose.training.run import (
    Run,
    best_checkpoint,
    build_run,
    opening_line,
    position,
    resume_command,
)
from sdpose.training.step import train_step
from sdpose.training.workdir import Start, checkpoint_folder, claim, locked


@dataclass(frozen=True)
class TrainResult:
    """What a finished run leaves."""

    best_checkpoint: Path | None  # None without evaluation.save_best
    best_metrics: dict[str, float]  # of the best epoch; without save_best of the last one
    last_checkpoint: Path
    mlflow_run_id: str | None
    epochs: int


def train(experiment: Experiment, *, overwrite: bool = False) -> TrainResult:
    """Trains to `total_epochs`; under torchrun every process calls this.

    Continues by itself what the work dir holds of this experiment, see `workdir.claim`; overwrite
    removes it first. SIGTERM and SIGINT save and raise SystemExit (143, 130), see interrupt.py.
    Raises UserError for whatever a person can mend: data, a work dir of another experiment, a
    checkpoint that does not fit, a loss that is not finite, a full disk.
    """
    assert experiment.work_dir is not None
    work_dir = Path(experiment.work_dir)
    leave_cores_to_workers(experiment.data.workers_per_gpu)
    with (
        StopSignals(speak=is_main_process()) as stop,
        process_group() as world,
        contextlib.ExitStack() as lock,
    ):
        events = Events([ConsoleSink()] if world.is_main else [])
        on_main(world, lambda: lock.enter_context(locked(work_dir)))
        overwrite = overwrite and not is_restart()
        start = on_main(world, lambda: claim(experiment, overwrite=overwrite, say=events.say))
        if _is_finished(start, experiment):
            assert start.checkpoint is not None
            meta = start.checkpoint["meta"]
            events.say(f"{work_dir} is finished: {meta['epoch']} epochs, nothing to train")
            progress, folder = Progress.of(meta), checkpoint_folder(experiment)
            return _result(experiment, progress, folder, meta["mlflow_run_id"])

        dataset = on_main(world, lambda: prepare_coco(experiment), timeout=PREPARE_TIMEOUT)
        run = build_run(experiment, world, stop, events, start)
        with _recorded(run, start, dataset):
            if run.progress.epoch and not run.progress.iteration_in_epoch:
                _finish_epoch(run)  # it was killed between an epoch's end and its evaluation
            for epoch in range(run.progress.epoch + 1, experiment.total_epochs + 1):
                with stop.deferred():
                    _train_epoch(run, epoch)
                    _save(run)
                _finish_epoch(run)
            result = _result(experiment, run.progress, run.folder, run.mlflow_run_id)
            events.say(_closing_line(result, run.progress))
            return result


def _train_epoch(run: Run, epoch: int) -> None:
    """Trains the rest of an epoch, or up to a request to stop, at the same step on all ranks."""
    progress, clip = run.progress, run.experiment.optimizer_config.grad_clip
    cumulative_iters = run.experiment.optimizer_config.cumulative_iters
    window, shared_stop = Window(run.world), SharedStop(run.world)
    seconds_before = progress.seconds
    lr, requested, complete = 0.0, 0, False
    run.parallel_model.train()
    run.stopwatch.restart()
    loaded = run.loader.epoch(epoch, start_iteration=progress.iteration_in_epoch)
    while batches := list(itertools.islice(loaded, cumulative_iters)):
        run.stopwatch.got_batch()
        lr = run.schedule(progress.iteration)
        values = train_step(
            run.parallel_model,
            run.loss,
            run.optimizer,
            [run.options.to_device(batch) for batch in batches],
            lr=lr,
            max_norm=clip.max_norm if clip else None,
            norm_type=clip.norm_type if clip else 2.0,
            autocast=run.options.autocast(),
            scaler=run.scaler,
        )
        if run.average is not None:
            run.average.update(progress.iteration)
        run.stopwatch.finished_step()
        progress.iteration += 1
        progress.iteration_in_epoch += 1
        window.add(lr, [batch["sample_ids_N"] for batch in batches], values)
        run.events.progress(progress.iteration)
        requested = shared_stop(run.stop.received)
        complete = progress.iteration_in_epoch == len(run.loader)
        if requested or complete or len(window) == run.experiment.log_config.interval:
            _log_steps(run, window, epoch, lr)
        if requested:
            break
    run.stop.adopt(requested or shared_stop.settle())
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


def _log_steps(run: Run, window: Window, epoch: int, lr: float) -> None:
    """Ends a window of steps: the one place where the host waits for the device."""
    progress, steps = run.progress, len(window)
    values = window.flush(progress)
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
    """To the end of the run, evaluations included, at the speed of this process so far."""
    experiment, progress = run.experiment, run.progress
    steps_left = len(run.loader) * experiment.total_epochs - progress.iteration
    epochs_left = range(progress.epoch + 1, experiment.total_epochs + 1)
    evaluations_left = sum(_is_evaluated(experiment, epoch) for epoch in epochs_left)
    per_step = run.stopwatch.run_seconds / run.stopwatch.run_steps
    return steps_left * per_step + evaluations_left * run.evaluation_seconds


def _peak_memory_mb(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) // 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10  # kilobytes on Linux


# -------------------------------------------------------------------------- the end of an epoch


def _is_evaluated(experiment: Experiment, epoch: int) -> bool:
    return epoch % experiment.evaluation.interval == 0 or epoch >= experiment.total_epochs


def _finish_epoch(run: Run) -> None:
    """Evaluates, and gives the checkpoint its names. Doing it again changes nothing."""
    experiment, progress = run.experiment, run.progress
    epoch = progress.epoch
    if _is_evaluated(experiment, epoch) and progress.evaluated_epoch < epoch:
        _evaluate(run)
        with run.stop.deferred():
            _save(run)
    with run.stop.deferred():
        on_main(run.world, lambda: _name_checkpoints(run))


def _evaluate(run: Run) -> None:
    experiment, progress = run.experiment, run.progress
    epoch, started = progress.epoch, time.perf_counter()

    def show(done: int, total: int) -> None:
        run.events.progress(progress.iteration, f"epoch {epoch}  evaluating {done}/{total}")

    result = evaluate(
        run.evaluated_model,
        experiment,
        device=run.world.device,
        missing_detections="use_gt_bbox",
        progress=show,
    )
    run.evaluation_seconds = time.perf_counter() - started
    progress.evaluated_epoch = epoch
    progress.metrics = {name: float(value) for name, value in result.metrics.items()}
    if experiment.evaluation.save_best and (
        not progress.best_epoch or progress.metrics["AP"] > progress.best_metrics["AP"]
    ):
        progress.best_epoch, progress.best_metrics = epoch, progress.metrics
    run.events.evaluation(
        EvaluationRecord(
            epoch=epoch,
            iteration=progress.iteration,
            bbox_source=result.bbox_source,
            seconds=run.evaluation_seconds,
            metrics=progress.metrics,
        )
    )


def _save(run: Run) -> None:
    """Writes `latest.pth`."""
    for model in dict.fromkeys([run.model, run.evaluated_model]):  # once if they are the same
        average_buffers(model, run.world)
    on_main(run.world, lambda: checkpoints.save_checkpoint(run.folder / LATEST, _content(run)))


def _content(run: Run) -> Checkpoint:
    content: Checkpoint = {"state_dict": run.evaluated_model.state_dict()}
    if run.average is not None:
        content["training_state_dict"] = run.model.state_dict()
    if run.scaler is not None:
        content["scaler"] = run.scaler.state_dict()
    return {
        **content,
        "optimizer": run.optimizer.state_dict(),
        "meta": {
            "format": checkpoints.FORMAT,
            "sdpose_version": __version__,
            "experiment": dump_experiment(run.experiment),
            "experiment_digest": experiment_digest(run.experiment),
            "mlflow_run_id": run.mlflow_run_id,
            **run.progress.meta(),
        },
    }


def _name_checkpoints(run: Run) -> None:
    """epoch_N.pth and best_AP_epoch_N.pth of the epoch just saved; removes those out of date."""
    settings, epoch = run.experiment.checkpoint_config, run.progress.epoch
    last = epoch == run.experiment.total_epochs and settings.save_last
    if epoch % settings.interval == 0 or last:
        checkpoints.same_file(run.folder / LATEST, run.folder / f"epoch_{epoch}.pth")
        if settings.max_keep_ckpts >= 0:
            checkpoints.keep_newest(run.folder, settings.max_keep_ckpts, epoch)
    best = best_checkpoint(run.folder, run.progress)
    if best is not None and run.progress.best_epoch == epoch:
        checkpoints.same_file(run.folder / LATEST, best)
        for path in run.folder.glob("best_AP_epoch_*.pth"):
            if path != best:
                path.unlink()


@contextlib.contextmanager
def _recorded(run: Run, start: Start, dataset: PreparedDataset) -> Iterator[None]:
    """Opens the log files and trackers, says what begins, and closes all with how it ended."""
    events, experiment = run.events, run.experiment
    if start.path is not None:
        events.say(f"continuing from {start.path}: {position(run)}")
    events.say(opening_line(run))
    run.mlflow_run_id = on_main(
        run.world,
        lambda: events.open(experiment, same_run=start.same_run, dataset_digest=dataset.digest),
    )
    events.start_bar(run.progress.iteration, run.total_iterations)
    status: Any = "FAILED"
    try:
        yield
        status = "FINISHED"
    except Interrupted:
        status = "KILLED"
        events.say(f"stopped at {position(run)}; to go on:\n  {resume_command(run)}")
        raise
    except UserError as error:
        events.log(f"stopped: {error}")  # the command line shows it
        raise
    except Exception as error:
        gone = "another process of this run is gone" if is_peer_lost(error) else None
        events.log(f"stopped at {position(run)}\n{gone or traceback.format_exc()}")
        raise
    finally:
        events.close(status, best_checkpoint(run.folder, run.progress))
        run.loader.close()


# -------------------------------------------------------------------------------------- the end


def finished_training(experiment: Experiment) -> TrainResult:
    """What other processes that trained this experiment to its end left in its work dir.

    Raises UserError if they did not, or not in the folder that is seen from here.
    """
    folder = checkpoint_folder(experiment)
    found = newest_checkpoint(folder, print)
    start = Start() if found is None else Start(checkpoint=found[1], path=found[0])
    if start.checkpoint is None or not _is_finished(start, experiment):
        raise UserError(
            f"{folder} holds no finished training of {experiment.exp_name}: is the volume that was "
            "trained on mounted here, too?"
        )
    meta = start.checkpoint["meta"]
    return _result(experiment, Progress.of(meta), folder, meta["mlflow_run_id"])


def _is_finished(start: Start, experiment: Experiment) -> bool:
    if start.checkpoint is None:
        return False
    progress = Progress.of(start.checkpoint["meta"])
    return progress.epoch >= experiment.total_epochs and progress.evaluated_epoch == progress.epoch


def _result(
    experiment: Experiment, progress: Progress, folder: Path, mlflow_run_id: str | None
) -> TrainResult:
    last = folder / f"epoch_{progress.epoch}.pth"
    return TrainResult(
        best_checkpoint=best_checkpoint(folder, progress),
        best_metrics=progress.best_metrics or progress.metrics,
        last_checkpoint=last if last.exists() else folder / LATEST,
        mlflow_run_id=mlflow_run_id,
        epochs=progress.epoch,
    )


def _closing_line(result: TrainResult, progress: Progress) -> str:
    best = result.best_checkpoint
    where = f" ({best})" if best else ""
    epoch = progress.best_epoch or progress.epoch
    return (
        f"finished {result.epochs} epochs in {duration(progress.seconds)} of training: "
        f"AP {result.best_metrics['AP']:.4f} at epoch {epoch}{where}"
    )
