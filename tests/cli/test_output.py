"""Standard output on a full disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
COMMANDS = {
    "show": ["-m", "sdpose", "config", "show", "quickstart"],
    "help": ["-m", "sdpose", "--help"],
    "submit": [
        str(REPOSITORY / "pipelines/submit.py"),
        *("--exp", "quickstart", "--runner", "local", "--dry-run"),
    ],
    "printed": [
        "-c",
        "from sdpose.errors import user_errors\nwith user_errors(): print('a result')",
    ],
}


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("command", COMMANDS)
def test_output_that_cannot_be_written(command, buffered, tmp_path):
    environment = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, *COMMANDS[command]],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            cwd=tmp_path,
            env=environment,
        )
    assert result.stderr == ("error: standard output cannot be written: No space left on device\n")
    assert result.returncode == 2


def test_another_full_disk_is_not_taken_for_it(tmp_path):
    program = (
        "from sdpose.errors import user_errors\n"
        "with user_errors(): open('/dev/full', 'w', buffering=1).write('x\\n')"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "standard output" not in result.stderr
    assert result.returncode == 1


def test_whoever_reads_less_than_all(tmp_path):
    program = f"{sys.executable} -m sdpose config show quickstart | head -n 1"
    result = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=False)
    assert result.stdout.count("\n") == 1
    assert "Traceback" not in result.stderr
