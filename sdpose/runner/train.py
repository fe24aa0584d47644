"""`sdpose train`: the training loop with all that belongs to a run on a machine.

    train            from the experiment to the best checkpoint
      begin          (start.py) whose the work dir is, where training begins, on which data
      build_run      (sdpose.training.run) model, loader, optimizer
      train_epochs   (sdpose.training.loop)

To the loop it attaches the work dir's lock and the mirror's lease, checkpoints that are written in
the background and uploaded, log files and trackers, signals, and the early stopping of sweeps.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import traceback
from collections.abc import Iterator

from sdpose.config import Experiment
from sdpose.data.auto_skeleton import with_skeleton
from sdpose.errors import PEER_LOST, UserError
from sdpose.log_setup import log_to
from sdpose.outputs.console import ConsoleSink
from sdpose.outputs.lease import Lease
from sdpose.outputs.mlflow_sink import DELIVERY_SECONDS
from sdpose.outputs.run_events import RunEvents
from sdpose.outputs.saver import CheckpointSaver, open_saver
from sdpose.outputs.sink import Status
from sdpose.outputs.work_dir_lock import locked_results
from sdpose.pack_store import open_pack
from sdpose.runner.early_stopping import reason_to_stop
from sdpose.runner.finished import complete
from sdpose.runner.memory_advice import killed_loader, memory_errors
from sdpose.runner.opening import opening_line, resume_command
from sdpose.runner.process_group import (
    is_first_on_node,
    is_peer_lost,
    leave_cores_to_workers,
    process_group,
)
from sdpose.runner.start import begin, skipped_images
from sdpose.runner.stop_signals import Interrupted, StopSignals, before_the_first_step
from sdpose.training.distributed import PREPARE_TIMEOUT, on_main
from sdpose.training.loop import train_epochs
from sdpose.training.paths import run_paths
from sdpose.training.result import (
    TrainResult,
    best_checkpoint,
    closing_line,
    result_in,
    result_of,
)
from sdpose.training.resume import Start
from sdpose.training.run import Run, build_run, position

log = logging.getLogger(__name__)

# How long the end of a run waits for the last uploads (of its logs, if all went well).
UPLOAD_SECONDS = 60.0


def train(experiment: Experiment, *, overwrite: bool = False) -> TrainResult:
    """Trains to `total_epochs`; under torchrun every process calls this.

    Continues by itself what the work dir holds of this experiment, see `work_dir.find_start`.
    SIGTERM and SIGINT save and raise SystemExit (143, 130), see stop_signals.py.

    Args:
        overwrite: Remove what the work dir holds first.

    Raises:
        UserError: Whatever the user can fix: data, a work dir of another experiment, a checkpoint
            that does not fit, a loss that is not finite, too little memory, a checkpoint that could
            not be kept.
    """
    leave_cores_to_workers(experiment.data.workers_per_gpu)
    with (
        StopSignals(speak=is_first_on_node()) as stop,
        process_group() as world,
        contextlib.ExitStack() as stack,
    ):
        events = RunEvents([ConsoleSink()] if world.is_main else [])
        if world.is_main:
            stack.enter_context(log_to(events.say))
        lease: Lease | None = None  # on rank 0

        def lock_results() -> None:
            nonlocal lease
            lease = stack.enter_context(locked_results(experiment))

        with before_the_first_step(events):
            experiment = on_main(world, lambda: with_skeleton(experiment), timeout=PREPARE_TIMEOUT)
            on_main(world, lock_results)
            start, dataset = begin(experiment, world, overwrite=overwrite, lease=lease)
        if dataset is None:
            assert start.checkpoint is not None
            events.say(f"{run_paths(experiment).work_dir} is finished: nothing to train")
            on_main(world, lambda: complete(experiment, start, lease), PREPARE_TIMEOUT)
            return result_in(experiment, start.checkpoint)

        with before_the_first_step(events):
            run = build_run(
                experiment,
                world,
                stop=stop,
                events=events,
                checkpoint=start.checkpoint,
                dataset_digest=dataset.digest,
                skip_images=skipped_images(experiment, world),
                pack=open_pack(dataset.pack) if dataset.pack else None,
            )
            saver = open_saver(experiment, start, lease) if world.is_main else None
        if saver is not None:
            run.outputs = saver
        run.early_stop = lambda epoch, ap: reason_to_stop(experiment, epoch, ap)
        with _recorded(run, events, saver, stop, start):
            with memory_errors(run):
                train_epochs(run)
            on_main(world, lambda: saver.finish() if saver else None, timeout=PREPARE_TIMEOUT)
            result = result_of(
                experiment,
                run.progress,
                mlflow_run_id=run.mlflow_run_id,
                dataset_digest=run.dataset_digest,
            )
            events.say(closing_line(experiment, result, run.progress))
            return result


@contextlib.contextmanager
def _recorded(
    run: Run, events: RunEvents, saver: CheckpointSaver | None, stop: StopSignals, start: Start
) -> Iterator[None]:
    """Opens the log files and trackers, says what begins, and closes all with how it ended."""
    experiment = run.experiment
    if start.path is not None:
        events.say(f"continuing from {start.path}: {position(run)}")
    events.say(opening_line(run))
    run.mlflow_run_id = on_main(
        run.world,
        lambda: events.open(experiment, same_run=start.same_run, dataset_digest=run.dataset_digest),
    )
    events.start_bar(run.progress.iteration, run.total_iterations)
    status: Status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except Interrupted:
        status = "KILLED"
        saved = "" if run.outputs.flush() else " (NOT saved: the checkpoint before is the newest)"
        events.say(f"stopped at {position(run)}{saved}; to go on:\n  {resume_command(run)}")
        raise
    except UserError as error:
        events.log(f"stopped: {error}")  # the command line shows it
        raise
    except Exception as error:
        if killed := killed_loader(error, experiment):
            events.log(f"stopped at {position(run)}: {killed}")
            log.error(killed)
            raise SystemExit(128 + signal.SIGKILL) from None  # as if it had been this process
        gone = PEER_LOST if is_peer_lost(error) else None
        events.log(f"stopped at {position(run)}\n{gone or traceback.format_exc()}")
        raise
    finally:
        run.outputs.flush()
        # Half of what a signal leaves: the mirror's last uploads go on meanwhile, and after.
        seconds = min(stop.seconds_left / 2, DELIVERY_SECONDS)
        events.close(status, best_checkpoint(run.experiment, run.progress), seconds)
        run.loader.close()
        if saver is not None:
            saver.close(min(stop.seconds_left, UPLOAD_SECONDS))
