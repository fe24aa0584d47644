"""Which GPUs a step of a local run gets, where several steps run at once."""

from __future__ import annotations

import os
import subprocess
from queue import SimpleQueue

from sdpose.cpus import cpu_count

VARIABLE = "CUDA_VISIBLE_DEVICES"


def visible_gpus() -> list[str]:
    """$CUDA_VISIBLE_DEVICES, else what nvidia-smi lists; empty where there is none."""
    configured = os.environ.get(VARIABLE)
    if configured is not None:
        return [gpu for gpu in configured.split(",") if gpu.strip()]
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return listed.stdout.split()


def shares(gpus: list[str], count: int) -> list[str]:
    """The GPUs of each of `count` steps, as CUDA_VISIBLE_DEVICES names them.

    >>> shares(["0", "1", "2", "3"], 2), shares(["0"], 2), shares([], 2)
    (['0,2', '1,3'], ['0', '0'], ['', ''])
    """
    if not gpus:
        return [""] * count
    return [",".join(gpus[i::count]) or gpus[i % len(gpus)] for i in range(count)]


class Slots:
    """Places for steps that run at once; a step's environment says which GPUs are its own."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free: SimpleQueue[dict[str, str]] = SimpleQueue()
        if count == 1:  # it has the whole machine
            self._free.put({})
            return
        threads = os.environ.get("OMP_NUM_THREADS", str(max(1, cpu_count() // count)))
        for gpus in shares(visible_gpus(), count):
            self._free.put({"OMP_NUM_THREADS": threads} | ({VARIABLE: gpus} if gpus else {}))

    def take(self) -> dict[str, str]:
        return self._free.get()

    def give_back(self, environment: dict[str, str]) -> None:
        self._free.put(environment)
