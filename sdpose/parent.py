"""Processes that end when the one that started them is killed."""

from __future__ import annotations

import ctypes
import signal
import sys


def signal_at_parents_end(number: signal.Signals) -> None:
    """Linux sends this process `number` when the thread that started it ends; others do not."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG, linux/prctl.h
        ctypes.CDLL(None).prctl(set_parent_death_signal, int(number))
