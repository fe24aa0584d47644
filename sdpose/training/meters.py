"""The counters of a run: its progress, the values of recent steps, and their time."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sdpose.data.samples import Batch
from sdpose.training.distributed import World, mean_over_ranks
from sdpose.training.divergence import BAD_STEPS_IN_A_ROW, BadStep, DivergedError, LossWatch


@dataclass
class Progress:
    """The position and the results of a run: a checkpoint's content beside tensors."""

    epoch: int = 0  # epochs completed
    iteration: int = 0  # steps done in the whole run
    iteration_in_epoch: int = 0  # steps done in the current epoch
    global_batch: int = 0  # samples per step, all ranks
    iterations_per_epoch: int = 0
    evaluated_epoch: int = 0  # the last epoch that was evaluated
    metrics: dict[str, float] = field(default_factory=dict)  # of that evaluation
    best_epoch: int = 0
    best_metrics: dict[str, float] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)  # over the steps of this epoch
    seconds: float = 0.0  # spent in training steps, including those before a resume
    stopped: str = ""  # why it stopped early

    def meta(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def of(meta: dict[str, Any]) -> Progress:
        names = Progress.__dataclass_fields__
        return Progress(**{name: value for name, value in meta.items() if name in names})

    def continue_with(self, global_batch: int, iterations_per_epoch: int) -> str | None:
        """Adapt to a new batch size or epoch length; return a note for the user, if any.

        The position in the epoch is kept in samples, rounded down to whole steps: none is skipped,
        and fewer than one step's are seen twice. An epoch that is shorter now may be complete.
        """
        before, now = (
            (self.global_batch, self.iterations_per_epoch),
            (global_batch, iterations_per_epoch),
        )
        self.global_batch, self.iterations_per_epoch = now
        if before in ((0, 0), now):
            return None
        samples = self.iteration_in_epoch * before[0]
        self.iteration_in_epoch = min(samples // global_batch, iterations_per_epoch)
        self.iteration = self.epoch * iterations_per_epoch + self.iteration_in_epoch
        self.sums = {}
        return (
            f"epochs had {before[1]} iterations of {before[0]} samples and have "
            f"{iterations_per_epoch} of {global_batch} now: iterations are renumbered (this is "
            f"{self.iteration}), and the loss may differ"
        )

    def complete_epoch(self) -> None:
        self.epoch += 1
        self.iteration_in_epoch = 0
        self.sums = {}

    def averages(self) -> dict[str, float]:
        """Means over the steps of the current epoch."""
        steps = self.sums.get("steps", 0.0)
        return {name: total / steps for name, total in self.sums.items() if name != "steps"}


class Window:
    """The steps since the last log line.

    Their values stay on the device until `flush`, which alone waits for it.
    """

    def __init__(self, world: World, watch: LossWatch) -> None:
        self._world, self._watch = world, watch
        self._steps: list[tuple[float, list[Tensor], dict[str, Tensor]]] = []

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, lr: float, sample_ids: list[Tensor], values: dict[str, Tensor]) -> None:
        """Add a step; `sample_ids` has one tensor per batch, `values` are from `train_step`."""
        # Clones: a tensor from a loader process keeps one of our file descriptors open.
        self._steps.append((lr, [ids_N.clone() for ids_N in sample_ids], values))

    def flush(self, progress: Progress) -> tuple[dict[str, float], list[BadStep]]:
        """Average the window, add its steps to the epoch's sums, and empty it.

        Returns:
            Means over steps and ranks, without skipped steps unless all were skipped; and the bad
            steps (divergence.py).
        Raises:
            DivergedError: a step was not finite and not skipped, or `BAD_STEPS_IN_A_ROW` steps in a
                row were bad and the last one was skipped. Raised on every rank.
        """
        names = list(self._steps[0][2])
        rows = torch.stack([torch.stack([v[name] for name in names]) for *_, v in self._steps])
        values_SV = mean_over_ranks(rows, self._world).double().tolist()
        steps = [dict(zip(names, row, strict=True)) for row in values_SV]
        counted, bad_steps = [], []
        for index, values in enumerate(steps):
            skipped, bad = values.pop("skipped", 0.0), values.pop("bad", 0.0)
            finite = all(map(math.isfinite, values.values()))
            if bad or not finite:
                bad_steps.append(self._bad_step(progress, index, values))
                self._watch.bad_in_a_row += 1
            else:
                self._watch.bad_in_a_row = 0
            if skipped and self._watch.bad_in_a_row < BAD_STEPS_IN_A_ROW:
                continue
            if skipped or not finite:
                raise DivergedError(bad_steps[-1])
            counted.append(values)
            for name, value in [*values.items(), ("steps", 1.0)]:
                # Step by step: the sum must not depend on where windows end.
                progress.sums[name] = progress.sums.get(name, 0.0) + value
        self._steps.clear()
        counted = counted or steps
        means = {name: sum(values[name] for values in counted) / len(counted) for name in steps[0]}
        return {n: value for n, value in means.items() if math.isfinite(value)}, bad_steps

    def _bad_step(self, progress: Progress, index: int, values: dict[str, float]) -> BadStep:
        lr, sample_ids, _ = self._steps[index]
        ids = [torch.cat(sample_ids).tolist()]
        if self._world.size > 1:
            ids = [[]] * self._world.size
            dist.all_gather_object(ids, torch.cat(sample_ids).tolist())
        back = len(self._steps) - 1 - index
        return BadStep(
            epoch=progress.epoch + 1,
            iteration=progress.iteration_in_epoch - back,
            step=progress.iteration - back,
            lr=lr,
            values=values,
            samples=[i for rank_ids in ids for i in rank_ids],
        )


class Stopwatch:
    """Wall time of the steps of a window and of the run, and the time spent waiting for data."""

    def __init__(self) -> None:
        self.run_seconds = 0.0
        self.run_steps = 0
        self.restart()

    def restart(self) -> None:
        """Start a window now; the time before (evaluation, saving) does not count."""
        self._begin = time.perf_counter()
        self._waited = 0.0

    def waiting_for(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the loader's batches and measure the time waited for them.

        It must wrap the loader itself: `on_device` also waits for the GPU, which is not a lack of
        data.
        """
        batches = iter(batches)
        while True:
            before = time.perf_counter()
            batch = next(batches, None)
            self._waited += time.perf_counter() - before
            if batch is None:
                return
            yield batch

    def window(self, steps: int) -> tuple[float, float]:
        """End the window: return its seconds, and those of them spent waiting for data."""
        now = time.perf_counter()
        seconds, waited = now - self._begin, self._waited
        self.run_seconds += seconds
        self.run_steps += steps
        self._begin, self._waited = now, 0.0
        return seconds, waited
