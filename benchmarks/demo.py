"""Time and memory of `make demo`, phase by phase: `.venv/bin/python benchmarks/demo.py`.

Runs what the Makefile's demo runs, in a folder of its own, and prints a table and JSON. Memory is
the highest sum of the proportional set sizes (shared pages counted once) of all processes of a
phase, sampled every 0.2 s; on systems without PSS, resident sizes.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).resolve().parents[1]
SUBMIT = [sys.executable, str(REPOSITORY / "pipelines/submit.py"), "--exp", "quickstart", "--yes"]
SYNTH = [*f"{sys.executable} -m sdpose synth data/synthetic".split(), "--train", "2000"]
SYNTH += ["--val", "200", "--seed", "0"]
_STEP = re.compile(r"\[\d/\d\] (\w+)\s*$")


class Phases:
    """The phase under way, its seconds, and the most memory that was seen in it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak_mib: defaultdict[str, float] = defaultdict(float)
        self._name = ""
        self._started = 0.0
        threading.Thread(target=self._sample, daemon=True).start()

    def enter(self, name: str) -> None:
        self.leave()
        self._name, self._started = name, time.monotonic()

    def leave(self) -> None:
        if self._name:
            self.seconds[self._name] = round(time.monotonic() - self._started, 1)
        self._name = ""

    def _sample(self) -> None:
        while True:
            name = self._name
            total = sum(_memory(p) for p in psutil.Process().children(recursive=True))
            self.peak_mib[name] = max(self.peak_mib[name], total / 2**20)
            time.sleep(0.2)


def _memory(process: psutil.Process) -> float:
    try:
        full = process.memory_full_info()
        return float(getattr(full, "pss", full.rss))
    except psutil.Error:
        return 0.0


def main() -> None:
    phases = Phases()
    with tempfile.TemporaryDirectory() as folder:
        phases.enter("synth")
        subprocess.run(SYNTH, cwd=folder, check=True)
        phases.enter("submit")  # until the first step: imports and compilation
        with subprocess.Popen(SUBMIT, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                if step := _STEP.match(line):
                    phases.enter(step[1])
        phases.leave()
        if process.returncode:
            sys.exit(process.returncode)
        summary = json.loads(Path(folder, "work_dirs/quickstart/summary.json").read_text())
    print(f"\n{'phase':<14}{'seconds':>9}{'peak MiB':>10}")
    for name, seconds in phases.seconds.items():
        print(f"{name:<14}{seconds:>9.1f}{phases.peak_mib[name]:>10.0f}")
    result = {
        "ap": summary["ap"],
        "git_commit": summary["git_commit"],
        "seconds": phases.seconds,
        "peak_mib": {name: round(phases.peak_mib[name]) for name in phases.seconds},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
