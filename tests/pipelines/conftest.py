from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from sdpose.tools.synthetic.dataset import write_synthetic_coco

# From the environment of whoever runs the tests these would change what is tested.
CONFIGURATION = (
    "KFP_ENDPOINT",
    "KF_PIPELINES_ENDPOINT",
    "KUBERNETES_SERVICE_HOST",
    "MLFLOW_TRACKING_URI",
    "KFP_COOKIE",
    "KUBECONFIG",
    "KFP_TOKEN",
    "SDPOSE_CLUSTER",
    "SDPOSE_EXPERIMENTS",
    "SDPOSE_IMAGE",
    "SDPOSE_REGISTRY",
)

Living = Callable[[list[psutil.Process]], list[psutil.Process]]
Submit = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="session")
def tiny_coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "coco"
    write_synthetic_coco(folder, num_train=12, num_val=4, seed=0)
    return folder


@pytest.fixture(scope="session")
def submit(repository: Path) -> Submit:
    """Starts `python pipelines/submit.py ARGUMENTS` in a folder, as a user does."""

    def start(*arguments: str | Path, cwd: Path, **environ: str) -> subprocess.Popen[str]:
        env = {key: value for key, value in os.environ.items() if key not in CONFIGURATION}
        return subprocess.Popen(
            [sys.executable, str(repository / "pipelines/submit.py"), *map(str, arguments)],
            cwd=cwd,
            env=env | {"OMP_NUM_THREADS": "1"} | environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture
def living() -> Living:
    """Which of some processes have not ended. (One that nobody has waited for yet has ended.)"""

    def is_living(process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        return False

    return lambda processes: [process for process in processes if is_living(process)]
