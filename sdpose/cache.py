"""Where the user's cache is: what can be found out again, but costs time."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "SDPOSE_CACHE"


def cache_dir() -> Path:
    """$SDPOSE_CACHE, else `sdpose` in $XDG_CACHE_HOME or ~/.cache."""
    configured = os.environ.get(CACHE_VARIABLE)
    if configured:
        return Path(configured)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "sdpose"
