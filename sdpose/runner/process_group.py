"""The processes that train together: their start and their end.

`torchrun` sets RANK, WORLD_SIZE, LOCAL_RANK and the master's address; without them there is one
process.

When a process dies, the others must end and not wait for ever. They see its closed connections (in
a second, usually) and end with PEER_LOST_EXIT_CODE; on one machine the launcher ends them within
30 s whatever they do. Where the connection stays open (a machine without power), a collective fails
after COLLECTIVE_TIMEOUT.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from sdpose.cpus import cpu_count
from sdpose.errors import (
    PEER_ERROR,
    PEER_LOST,
    PEER_LOST_EXIT_CODE,
    USER_ERROR_EXIT_CODE,
    UserError,
)
from sdpose.signals import set_parent_death_signal
from sdpose.training.distributed import MainEnded, World

log = logging.getLogger(__name__)

# Longer than what rank 0 does alone between two collectives: writing a checkpoint, the AP of a
# large detection file.
COLLECTIVE_TIMEOUT = timedelta(minutes=10)
# How long the others wait for rank 0 to end after an error of its own: it prints the error when its
# last records and uploads are through (train.py). Kubernetes ends a job with the first of its pods.
LAST_WORDS_TIMEOUT = timedelta(minutes=12)


def is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def is_first_on_node() -> bool:
    """Whether this process speaks for its machine, whose output is a log of its own."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _is_on_main_node() -> bool:
    """Whether rank 0 runs on this machine, and its messages are in the same output."""
    return os.environ.get("RANK", "0") == os.environ.get("LOCAL_RANK", "0")


def is_restart() -> bool:
    """Whether torchrun started these processes again after a failure (--max-restarts)."""
    return _restart_count() > 0


def _restart_count() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@contextlib.contextmanager
def process_group() -> Iterator[World]:
    """Joins the processes that torchrun started, for the time of the block.

    CUDA tensors travel by NCCL and CPU tensors by gloo, so that asking the others something does
    not wait for the GPU.
    Raises UserError if torchrun started more processes on this machine than it has GPUs. A
    UserError in the block goes on in the first process only, which also reports one that another
    process alone has met; the others end with its exit code. On a machine without the first
    process, one of those that have met it prints it, too: that machine's output is another log. If
    another process is gone, this one ends on the spot, with PEER_LOST_EXIT_CODE.
    """
    device = _device(int(os.environ.get("LOCAL_RANK", "0")))
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(rank=0, size=1, device=device)
        return
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # If torchrun itself is killed, save and end. Nobody else would see to it: an orphan trains
        # on, or waits for ranks that are gone.
        set_parent_death_signal(signal.SIGTERM)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store, rank, size = next(rendezvous("env://", timeout=COLLECTIVE_TIMEOUT))
    # torchrun's static rendezvous keeps its store over a restart, and the addresses of processes
    # that are dead by now with it.
    store = PrefixStore(f"attempt_{_restart_count()}", store)
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=size, timeout=COLLECTIVE_TIMEOUT
    )
    try:
        with _enough_descriptors():
            yield World(rank=rank, size=size, device=device)
    except MainEnded as end:
        _follow_main(rank, end)
        raise
    except UserError as error:
        if is_main_process():
            raise
        _report_user_error(store, f"process {rank}: {error}")
        raise SystemExit(USER_ERROR_EXIT_CODE) from None
    except Exception as error:
        if not is_peer_lost(error):
            raise
        if is_main_process() and store.check(["user_error"]):
            raise UserError(store.get("user_error").decode()) from None
        # gloo: "[source file:line] Read error [address]: reason. What this may mean"
        reason = re.sub(r"^\[\S*/gloo/\S*\] |\. This is typically.*", "", str(error).split("\n")[0])
        sys.stdout.flush()
        log.error(f"{PEER_LOST}: {reason}")
        # No destructors: NCCL's may wait for the process that is gone.
        os._exit(PEER_LOST_EXIT_CODE)
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _enough_descriptors() -> Iterator[None]:
    """Running out of file descriptors looks like a lost connection to gloo."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if os.strerror(errno.EMFILE) not in str(error):
            raise
        raise UserError(
            "too many open files: connections to the other processes, logs and the batches of "
            "loaders take them. Raise the limit of the shell or the container (ulimit -n)"
        ) from None


def _report_user_error(store: PrefixStore, message: str) -> None:
    """For rank 0 to raise; on a machine without it, the first process that meets one prints it."""
    first = True
    with contextlib.suppress(RuntimeError):  # rank 0's machine is gone, and the store with it
        store.set("user_error", message)
        first = store.add(f"user_errors_on_{os.environ.get('GROUP_RANK')}", 1) == 1
    if first and not _is_on_main_node():
        log.error(message)


def _follow_main(rank: int, end: MainEnded) -> None:
    """Lets rank 0 end first, if it has an error to print, and says why this process ends."""
    if end.is_error:
        with contextlib.suppress(RuntimeError):  # raised when the connection to rank 0 is closed
            work = dist.irecv(torch.zeros(1), src=0)
            if work is not None:
                work.wait(LAST_WORDS_TIMEOUT)
    if is_first_on_node() and not _is_on_main_node():
        why = f"{PEER_ERROR}; see its output" if end.is_error else f"process 0 ends with {end.code}"
        log.info(f"process {rank} ends: {why}")


def is_peer_lost(error: Exception) -> bool:
    """Whether a collective failed because another process is gone, or does not answer any more."""
    is_gloo = isinstance(error, RuntimeError) and "/gloo/" in str(error)
    return isinstance(error, dist.DistError) or is_gloo


def _device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # All processes of the machine raise it, so that its first one, which prints it, does.
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", local_rank + 1))
    if processes > torch.cuda.device_count():
        raise UserError(
            f"{processes} processes were started on this machine, which has "
            f"{torch.cuda.device_count()} GPU(s): set --nproc-per-node to that number"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def leave_cores_to_workers(num_workers: int) -> None:
    """On a CPU, computes with the cores that this process's `num_workers` loaders leave over.

    More threads than cores do not share them: OpenMP's spin at every barrier, and a step takes ten
    times as long. An explicit OMP_NUM_THREADS, which torchrun sets too, is left as it is.
    """
    if torch.cuda.is_available() or "OMP_NUM_THREADS" in os.environ:
        return
    torch.set_num_threads(max(1, cpu_count() - num_workers))
