"""Set up loader processes: signals, process group, threads, and the reporting of errors."""

from __future__ import annotations

import os
import signal
import sys
from multiprocessing.util import is_exiting

import cv2

from sdpose.data.handover import report_failures
from sdpose.signals import set_parent_death_signal

# Time for multiprocessing to remove its temporary files.
END_SECONDS = 5


def start_worker(_: int) -> None:
    """Set up a worker; the `worker_init_fn` of a DataLoader."""
    # Ctrl-C and torchrun signal the whole process group. A worker killed by it would end the
    # training process before that has saved; workers exit when the parent closes them or dies.
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Torch's own watchdog needs 5 s to notice that the parent died. Until then the work dir stays
    # locked and the other ranks see open connections: this process has inherited all of them.
    signal.signal(signal.SIGTERM, _end)
    set_parent_death_signal(signal.SIGTERM)
    cv2.setNumThreads(0)
    report_failures()


def _end(*_: object) -> None:
    # Only once: the kernel sends a signal for each thread of a parent that is killed.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.alarm(END_SECONDS)
    if not is_exiting():
        sys.exit()
