"""Set-up of loader processes: signals, process group, threads, and errors as they hand over."""

from __future__ import annotations

import os
import signal
import sys
from multiprocessing.util import is_exiting

import cv2

from sdpose.data.handover import report_failures
from sdpose.signals import set_parent_death_signal

# What multiprocessing may take to remove its temporary files.
END_SECONDS = 5


def start_worker(_: int) -> None:
    """For torch's DataLoader: `worker_init_fn`."""
    # Ctrl-C and torchrun signal the whole process group. A worker that died of it would take the
    # training process along before that has saved; it ends when the parent closes or is gone.
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Torch's own watch needs 5 s to notice, and until then the work dir stays locked and the other
    # ranks see their connections open: this process has inherited all of them.
    signal.signal(signal.SIGTERM, _end)
    set_parent_death_signal(signal.SIGTERM)
    cv2.setNumThreads(0)
    report_failures()


def _end(*_: object) -> None:
    # Not twice: the kernel sends one signal for each thread of a parent that is killed.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.alarm(END_SECONDS)
    if not is_exiting():
        sys.exit()
