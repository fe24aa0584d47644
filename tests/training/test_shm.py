"""`sdpose train` where /dev/shm has 1 MB, as in many containers it has 64."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sdpose.config import dump_experiment

SECONDS = 300  # it used to wait for ever


@pytest.mark.usefixtures("may_mount")
@pytest.mark.parametrize("ranks", [1, 2])
def test_full_shared_memory_is_exit_code_2_and_the_remedy(ranks, make, tmp_path: Path) -> None:
    experiment = make("data.samples_per_gpu=40", "data.workers_per_gpu=1")
    (tmp_path / "run.yaml").write_text(dump_experiment(experiment))
    launcher = ["launch", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    shell = 'mount -t tmpfs -o size=1m none /dev/shm && exec "$@"'
    ended = subprocess.run(
        [
            *("unshare", "--mount", "--propagation", "private", "sh", "-c", shell, "sh"),
            *(sys.executable, "-m", "sdpose", *launcher, "train", str(tmp_path / "run.yaml")),
        ],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    output = ended.stdout + ended.stderr
    assert ended.returncode == 2, output
    assert "/dev/shm, is full. Enlarge it (docker run --shm-size" in ended.stderr
    assert "Traceback" not in output
