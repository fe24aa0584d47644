"""The process that reads one configuration: `python -m sdpose.tools.mmpose_import.child FILE`.

It limits itself, reads FILE, and writes one JSON object: the translation, or `error`.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sdpose.errors import UserError
from sdpose.printable import printable, printable_line
from sdpose.signals import set_parent_death_signal
from sdpose.tools.mmpose_import.python_file import read_python_config
from sdpose.tools.mmpose_import.translate import READ_BY_MMPOSE, translate

CPU_SECONDS = 10  # a configuration takes a tenth of a second
MEMORY_BYTES = 512 * 2**20  # beside what Python and the imports have taken


def answer(path: Path) -> dict[str, Any]:
    """What `ImportedExperiment` is made of, or the message of what is wrong."""
    try:
        config = read_python_config(path)
        translation = translate(config, printable_line(path.stem))
    except UserError as error:
        message = str(error)
        if str(path) not in message:
            message = f"{path}: {message}"
        return {"error": printable(message)}
    except MemoryError:
        return {"error": printable(f"{path}: it takes more memory than a configuration needs")}
    used = {*READ_BY_MMPOSE, "data_root", "exp_name"}
    return asdict(translation) | {"variables": sorted(config.keys() - used)}


def limit_this_process() -> None:
    """Bounds processor time and memory from here on; and no file can be written, no core dumped."""
    set_parent_death_signal(signal.SIGKILL)
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + CPU_SECONDS
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    with contextlib.suppress(OSError):  # no /proc: macOS, which does not enforce RLIMIT_AS either
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limits[resource.RLIMIT_AS] = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY_BYTES
    for limit, value in limits.items():
        _, highest = resource.getrlimit(limit)
        if highest != resource.RLIM_INFINITY:
            value = min(value, highest)
        resource.setrlimit(limit, (value, value))


def main() -> None:
    limit_this_process()
    warnings.simplefilter("ignore")  # Python's, about the file's text
    json.dump(answer(Path(sys.argv[1])), sys.stdout)


if __name__ == "__main__":
    main()
