"""Where this machine keeps what is lost without harm: the cache, which can be made again but costs
time, and the local part of results that are on S3."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "SDPOSE_CACHE"
SCRATCH_VARIABLE = "SDPOSE_SCRATCH"


def cache_dir() -> Path:
    """$SDPOSE_CACHE, else `sdpose` in $XDG_CACHE_HOME or ~/.cache."""
    configured = os.environ.get(CACHE_VARIABLE)
    if configured:
        return Path(configured)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "sdpose"


def scratch_dir() -> Path:
    """$SDPOSE_SCRATCH, else the working folder (which is read-only in a container)."""
    return Path(os.environ.get(SCRATCH_VARIABLE, ""))
