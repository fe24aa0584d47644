"""Reads a configuration in a child process with limits on processor time, memory and output.

The interpreter bounds what it computes. This is the second line of defence: whatever it overlooks
ends the child, not the command.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from sdpose.documents import parse_json
from sdpose.errors import UserError
from sdpose.tools.mmpose_import.child import CPU_SECONDS

DEADLINE = 60  # seconds; Python's start alone can take ten on a machine that is overloaded
_ROOT = Path(__file__).resolve().parents[3]


def translate_in_child(path: Path) -> dict[str, Any]:
    """`experiment`, `built_in`, `unsupported` and `variables` of a configuration.

    Raises UserError for what is wrong with it, and if the child does not come to an end.
    """
    # Not from the current folder (-P): it may hold modules of somebody else.
    command = [sys.executable, "-P", "-m", "sdpose.tools.mmpose_import.child", str(path)]
    places = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    try:
        child = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment,
            timeout=DEADLINE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{path}: not read after {DEADLINE} s; it computes too much") from None
    except ValueError as error:  # a NUL in the name
        raise UserError(f"{path}: cannot be read: {error}") from None
    if child.returncode == -signal.SIGXCPU:
        raise UserError(
            f"{path}: takes more than {CPU_SECONDS} s of processor time; it is no configuration"
        )
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        raise UserError(
            f"{path}: the process that reads it was ended by {name}; it computes too much"
        )
    if child.returncode:
        raise RuntimeError(f"{path}: {child.stderr.decode(errors='replace')}")
    answer = parse_json(child.stdout, f"what was read of {path}")
    if "error" in answer:
        raise UserError(answer["error"])
    return dict(answer)
