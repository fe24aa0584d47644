"""Loader processes that cannot hand over what they loaded: told, and never waited for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from sdpose.data.handover import start
from sdpose.data.worker import start_worker
from sdpose.errors import UserError

SECONDS = 300  # what waits, waits for ever
FULL = "the loaders' shared memory, /dev/shm, is full. Enlarge it (docker run --shm-size"

TRAIN = """
import sys
from sdpose.config import Experiment

from sdpose.data.loader import build_train_loader
from sdpose.errors import user_errors

with user_errors():
    data = {"samples_per_gpu": 16, "workers_per_gpu": 2}
    loader = build_train_loader(Experiment(exp_name="full", data_root=sys.argv[1], data=data))
    for batch in loader.epoch(1):
        print("a batch")
"""

EVALUATE = """
import sys
from pathlib import Path
import numpy as np
from sdpose.errors import user_errors
from sdpose.evaluation.infer import ImageCrops, crop_batches

with user_errors():
    whole = np.array([[200.0, 200.0]], np.float32)
    images = [(path, whole, whole) for path in sorted(Path(sys.argv[1]).rglob("*.jpg"))]
    for batch in crop_batches(ImageCrops(images, (1024, 1024)), 1, num_workers=1):
        print("a batch")
"""


def run_with_little_shared_memory(
    program: str, data: Path, filled: bool = False
) -> subprocess.CompletedProcess[str]:
    fill = "dd if=/dev/zero of=/dev/shm/full bs=4k 2>/dev/null;" if filled else ""
    shell = f'mount -t tmpfs -o size=1m none /dev/shm && {{ {fill} exec "$@"; }}'
    return subprocess.run(
        [
            *("unshare", "--mount", "--propagation", "private", "sh", "-c", shell, "sh"),
            *(sys.executable, "-c", program, str(data)),
        ],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.mark.usefixtures("may_mount")
@pytest.mark.parametrize("filled", [False, True], ids=["a batch", "the queues"])
@pytest.mark.parametrize("program", [TRAIN, EVALUATE], ids=["training", "evaluation"])
def test_full_shared_memory(coco_mini: Path, program: str, filled: bool) -> None:
    ended = run_with_little_shared_memory(program, coco_mini, filled)
    assert ended.returncode == 2, ended.stderr
    assert f"error: {FULL}" in ended.stderr
    assert "data.workers_per_gpu" in ended.stderr
    assert "Traceback" not in ended.stderr


class Odd(Dataset):
    """After its first item, things that no process can send to another."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> object:
        return (lambda: index) if index else index


def items(num_workers: int = 1) -> DataLoader:
    return DataLoader(Odd(), batch_size=None, num_workers=num_workers, worker_init_fn=start_worker)


def test_whatever_cannot_be_sent_is_an_error_here() -> None:
    loaded = start(items())
    assert next(loaded) == 0
    with pytest.raises(Exception, match="handing over a batch"):
        next(loaded)


@pytest.mark.slow
def test_file_descriptors_that_run_out() -> None:
    program = """
import resource, torch
from torch.utils.data import DataLoader
from sdpose.data.handover import start
from sdpose.data.worker import start_worker
from sdpose.errors import user_errors

def begin(worker):
    start_worker(worker)
    resource.setrlimit(resource.RLIMIT_NOFILE, (2, 2))  # fewer than are open

tensors = [torch.zeros(1000) for _ in range(8)]
with user_errors():
    loader = DataLoader(tensors, batch_size=None, num_workers=1, worker_init_fn=begin)
    list(start(loader))
"""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    assert "error: too many open files" in ended.stderr
    assert "ulimit -n" in ended.stderr


def test_errors_of_the_caller_are_its_own() -> None:
    def use() -> None:
        for _ in start(items(0)):
            raise RuntimeError("unable to allocate shared memory")

    with pytest.raises(RuntimeError) as error:
        use()
    assert not isinstance(error.value, UserError)
