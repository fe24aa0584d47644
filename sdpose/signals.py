"""Signals between a process and those that it starts."""

from __future__ import annotations

import ctypes
import signal
import sys

# Shutdown grace periods, from the signal to the end of the process: training exits within them,
# and whoever starts a training waits this long before SIGKILL. A person at a terminal waits 5 s;
# Kubernetes and torchrun kill 30 s after their SIGTERM.
GRACE_SECONDS = {signal.SIGINT: 4.0, signal.SIGTERM: 20.0}
# A terminal's Ctrl-C reaches a process twice if its parent forwards it: not a second request.
REPEAT_SECONDS = 0.5


def set_parent_death_signal(number: signal.Signals) -> None:
    """Linux sends this process `number` when the thread that started it ends; others do not."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # linux/prctl.h
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(number))
