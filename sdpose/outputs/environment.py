"""On what a training runs: what may change its numbers or its speed."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

import torch

from sdpose.code_version import NUMERICS

OTHERS = ("mlflow", "kfp")


def environment() -> dict[str, str]:
    """By name, as text; what cannot be told is left out."""
    found = {
        "host": platform.node(),
        "system": platform.platform(),
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
    }
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        found["GPUs"] = ", ".join(f"{names.count(n)} × {n}" for n in dict.fromkeys(names))
        found["CUDA"] = f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    for name in (*NUMERICS, *OTHERS):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
