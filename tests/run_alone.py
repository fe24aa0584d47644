"""Runs every test file in a pytest of its own, and says which one needs the files before it.

    python tests/run_alone.py [FILE or FOLDER ...]     (make test-alone)

A file also fails if it leaves processes behind, or files in the repository.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).resolve().parents[1]
PR_SET_CHILD_SUBREAPER = 36
# Processes that end with their parent need a moment for it.
ENDING_S = 30
NO_TESTS = 5  # pytest's exit code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", type=Path, metavar="FILE", help="default: all")
    parser.add_argument("--logs", type=Path, help="a folder for the output of each file")
    asked = parser.parse_args()
    paths = [path.resolve() for path in asked.paths] or [
        REPOSITORY / "tests",
        REPOSITORY / "sdpose",
    ]
    logs = asked.logs or Path(tempfile.mkdtemp(prefix="test-alone-"))
    logs.mkdir(parents=True, exist_ok=True)
    # What a test leaves running becomes a child of this process, which can count it.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    failed = []
    for path in _units(paths):
        name = str(path.relative_to(REPOSITORY))
        log = logs / f"{name.replace('/', '.')}.txt"
        before, start = _untracked(), time.monotonic()
        problems = list(_problems(path, log, before))
        seconds = time.monotonic() - start
        print(f"{'FAILED' if problems else 'passed'} {seconds:6.0f} s  {name}", flush=True)
        if problems:
            failed.append(name)
            print(*(f"    {each}" for each in problems), f"    see {log}", sep="\n", flush=True)
    if failed:
        print(f"{len(failed)} did not pass alone: {' '.join(failed)}")
    return 1 if failed else 0


def _units(paths: list[Path]) -> Iterator[Path]:
    """Test files; a folder of the product stands for all of its doctests."""
    for path in paths:
        if path.is_file() or not path.is_relative_to(REPOSITORY / "tests"):
            yield path
        else:
            yield from sorted(path.rglob("test_*.py"))


def _problems(path: Path, log: Path, before: set[str]) -> Iterator[str]:
    with log.open("wb") as output:
        command = [sys.executable, "-m", "pytest", "-q", str(path)]
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=output, stderr=output)
        code = _wait(process)
    if code not in (0, NO_TESTS):
        yield f"pytest ended with exit code {code}"
    _, left = psutil.wait_procs(psutil.Process().children(recursive=True), timeout=ENDING_S)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            yield f"left process {process.pid}: {' '.join(process.cmdline())[:200]}"
            process.kill()
    for file in sorted(_untracked() - before):
        yield f"left {file}"


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Its exit code. What becomes a child of this process and ends meanwhile is waited for, too:
    tests look whether processes are gone."""
    while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)).si_pid != process.pid:
        os.waitpid(ended.si_pid, 0)
    return process.wait()


def _untracked() -> set[str]:
    """What git does not know, but for the caches that .gitignore names."""
    status = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=all", "--ignored=matching"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    caches = ("__pycache__/", "_cache/", ".hypothesis/", ".venv-swift/", ".venv/")
    return {line[3:] for line in status.splitlines() if not line.endswith(caches)}


if __name__ == "__main__":
    sys.exit(main())
