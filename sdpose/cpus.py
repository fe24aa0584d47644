"""How many processors this process may use."""

from __future__ import annotations

import os


def cpu_count() -> int:
    """Those that its affinity allows (taskset, Kubernetes' static CPU policy); 1 or more.

    macOS and Windows know no affinity: there it is all of them.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
