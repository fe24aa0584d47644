"""Running out of memory ends with what to change."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Iterator

import torch

from sdpose.config import Experiment
from sdpose.data.handover import explained
from sdpose.errors import UserError
from sdpose.training.run import Run

log = logging.getLogger(__name__)

_DEATH_IS_TOLD_SECONDS = 1.0
_KILLED = re.compile(r"DataLoader worker \(pid (\d+)\) is killed by signal: Killed")
_GONE = re.compile(r"DataLoader worker \(pid\(s\) ([\d, ]+)\) exited unexpectedly")


@contextlib.contextmanager
def memory_errors(run: Run) -> Iterator[None]:
    """Lacking memory as UserError: the same again would end so, too."""
    experiment, world = run.experiment, run.world
    try:
        # Outside of the loop over batches, too: torch raises the death of a loader anywhere.
        with explained(experiment.data.workers_per_gpu):
            yield
    except torch.OutOfMemoryError as error:
        evaluating = run.is_evaluating
        advice = _evaluation_advice(experiment) if evaluating else _training_advice(experiment)
        message = (
            f"out of memory while {'evaluating' if evaluating else 'training'} on {world.device}, "
            f"process {world.rank}: {str(error).splitlines()[0]}\n  "
            + "\n  ".join(advice)
            + "\n`sdpose doctor` tries which batch fits; then the same command again goes on from "
            "the last checkpoint."
        )
        if world.device.type == "cuda" and not world.is_main:
            # Process 0 tells a peer's error, unless it waits for it in NCCL and is ended there.
            log.error(message)
        raise UserError(message) from None


def killed_loader(error: Exception, experiment: Experiment) -> str | None:
    """What to tell of a loader process that SIGKILL has ended; None if the error is another one.

    torch raises it in this process's main thread wherever that is, not only where it loads: when
    the kernel reports the death. While the main thread waits for a batch, torch catches it and
    raises "exited unexpectedly" from it. After the broken connection of a loader that was handing
    over a batch the death is reported a little later, so that it is waited for.
    """
    causes = list(_causes(error))
    found = _first(_KILLED, causes)
    if not found and any(map(_is_broken_connection, causes)):
        try:
            time.sleep(_DEATH_IS_TOLD_SECONDS)
            # The kernel reports a death once: torch has taken note of it without the signal.
            found = _first(_GONE, causes)
        except RuntimeError as death:  # by torch's handler of SIGCHLD
            found = _KILLED.search(str(death))
    return found and (
        f"a loader process (pid {found[1]}) was killed, by a person or by the kernel for want of "
        "memory (`dmesg` tells; on a cluster, the pod's OOMKilled). If it happens again: more "
        "memory for the machine or the pod, or lower data.workers_per_gpu "
        f"({experiment.data.workers_per_gpu})"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it was raised from or while, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_broken_connection(error: BaseException) -> bool:
    return isinstance(error, OSError | EOFError) or "items of ancdata" in str(error)


def _first(pattern: re.Pattern[str], errors: list[BaseException]) -> re.Match[str] | None:
    return next(filter(None, (pattern.search(str(error)) for error in errors)), None)


def _training_advice(experiment: Experiment) -> list[str]:
    batch, batches = experiment.data.samples_per_gpu, experiment.optimizer_config.cumulative_iters
    advice = []
    if batch > 1:
        smaller = next(n for n in range(batch // 2, 0, -1) if batch % n == 0)
        advice.append(
            f"Lower data.samples_per_gpu, now {batch}. The global batch stays what it is with "
            f"data.samples_per_gpu={smaller} "
            f"optimizer_config.cumulative_iters={batches * batch // smaller},"
        )
        advice.append("which trains the same but for BatchNorm's statistics.")
    if experiment.amp not in ("bf16", "fp16"):
        advice.append(f"Or set amp to bf16 (now {experiment.amp}): activations take half as much.")
    if experiment.ema is not None:
        advice.append("Or leave out ema, a second copy of the weights.")
    return [*advice, "Or see whether another program uses the memory (nvidia-smi)."]


def _evaluation_advice(experiment: Experiment) -> list[str]:
    batch = experiment.data.val_dataloader.samples_per_gpu
    return [f"Lower data.val_dataloader.samples_per_gpu, now {batch}: the AP stays what it is."]
