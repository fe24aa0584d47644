"""Receive batches from loader processes, and report why a batch could not be transferred.

A loader process copies a batch to shared memory on a thread of its queue. If that fails,
multiprocessing prints a traceback and drops the batch, and the training process would wait for it
forever. Here the error is sent in place of the batch.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import multiprocessing.queues
import os
from collections.abc import Iterator
from typing import Any

from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader

from sdpose.errors import UserError

# Torch's messages when /dev/shm is full: a kernel that notices it only when memory is written to
# kills the process with SIGBUS.
_SHM_FULL = ("killed by signal: Bus error", "unable to allocate shared memory")
_TOO_MANY_FILES = "Too many open files"
_END = object()


def report_failures() -> None:
    """In a loader process, send every error of a transfer to the training process."""
    # concurrent.futures overrides this hook too; the name is private.
    setattr(multiprocessing.queues.Queue, "_on_queue_feeder_error", _send_error)  # noqa: B010


def _send_error(queue: Any, error: Exception, item: Any) -> None:
    """`item` is (number of the batch, batch), or its bytes if writing to the pipe failed."""
    if not isinstance(item, tuple):
        os._exit(1)  # the training process notices
    exc_info = type(error), error, error.__traceback__
    queue.put((item[0], ExceptionWrapper(exc_info, where="handing over a batch")))


def start(loader: DataLoader) -> Iterator[Any]:
    """Start the loader's processes now, and return the iterator over their batches.

    Raises:
        UserError: shared memory or file descriptors are exhausted.
    """
    with explained(loader.num_workers, starting=True):
        if loader.num_workers:
            # As many as the loader will create: if creating one of its own fails, torch also prints
            # a traceback of its incomplete iterator.
            queues: list[Any] = [multiprocessing.Queue() for _ in range(loader.num_workers + 2)]
            for queue in queues:
                queue.close()
        items = iter(loader)
    return _items(items, loader.num_workers)


def _items(items: Iterator[Any], workers: int) -> Iterator[Any]:
    while True:
        with explained(workers):
            item = next(items, _END)
        if item is _END:
            return
        yield item


@contextlib.contextmanager
def explained(workers: int, *, starting: bool = False) -> Iterator[None]:
    """Replace errors of loader processes by a UserError that says what to change.

    Args:
        workers: number of loader processes.
        starting: whether the queues are being created, which also takes shared memory.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        full = starting and getattr(error, "errno", None) == errno.ENOSPC
        if full or any(text in str(error) for text in _SHM_FULL):
            raise UserError(
                "the loaders' shared memory, /dev/shm, is full. Enlarge it (docker run --shm-size, "
                "on a cluster shm_size in the cluster profile), or lower data.workers_per_gpu "
                f"({workers}) or data.samples_per_gpu"
            ) from None
        if _TOO_MANY_FILES in str(error):
            raise UserError(
                "too many open files: every batch that a loader hands over takes some. Raise the "
                f"limit (ulimit -n), or lower data.workers_per_gpu ({workers})"
            ) from None
        raise
