"""Too little memory: what the user reads."""

from __future__ import annotations

import signal
import threading
import time

import psutil
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from sdpose.errors import PEER_LOST_EXIT_CODE, UserError
from sdpose.runner.memory_advice import killed_loader
from sdpose.runner.train import train
from sdpose.training import loop


@pytest.mark.parametrize("rank", [0, 1])
def test_a_step_out_of_memory_says_what_to_change(rank, make, launch) -> None:
    """On one of two ranks. (Code 2 goes before that of the peer that lost it: launch.py.)"""
    experiment = make("data.samples_per_gpu=4", "optimizer_config.cumulative_iters=2")
    run = launch(experiment, ranks=2, environment={"OUT_OF_MEMORY": (rank, 3)}, pause=0.0)
    codes = [process.wait(120) for process in run.processes]
    assert codes == [2, 2 if rank else PEER_LOST_EXIT_CODE], run.text()
    said = run.text()
    assert f"process {rank}: CUDA out of memory. Tried to allocate 2.00 GiB." in said
    assert "data.samples_per_gpu, now 4" in said
    assert "data.samples_per_gpu=2 optimizer_config.cumulative_iters=4" in said
    assert "amp to bf16" in said
    assert said.count("out of memory while training") == 1
    assert "Traceback" not in said


def test_a_killed_loader_is_told_and_worth_a_restart(make, launch) -> None:
    """As the kernel does it: to the process that has grown most."""
    run = launch(make("data.workers_per_gpu=2"))
    run.wait_for("Epoch [1][2/")
    run.processes[0].children()[0].kill()
    assert run.wait() == 128 + signal.SIGKILL, run.text()
    assert "was killed, by a person or by the kernel for want of memory" in run.text()
    assert "lower data.workers_per_gpu (2)" in run.text()
    assert "Traceback" not in run.text()


def test_a_loader_that_is_killed_as_it_hands_over_a_batch(make) -> None:
    """The connection breaks first; what broke it is known when the kernel has told."""
    before = set(psutil.Process().children())
    loader = iter(DataLoader(range(8), num_workers=1))
    next(loader)
    (worker,) = set(psutil.Process().children()) - before
    threading.Timer(0.2, worker.kill).start()
    said = killed_loader(ConnectionResetError(104, "Connection reset by peer"), make())
    assert said is not None
    assert "was killed" in said


class Slow(Dataset):
    """After its first item it never has another."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        if index:
            time.sleep(1000)
        return index


def test_a_loader_that_is_killed_while_its_batch_is_waited_for(make) -> None:
    """As it is when training waits for data: torch says that it "exited unexpectedly"."""
    before = set(psutil.Process().children())
    loader = iter(DataLoader(Slow(), num_workers=1))
    next(loader)
    (worker,) = set(psutil.Process().children()) - before
    threading.Timer(0.2, worker.kill).start()
    with pytest.raises(RuntimeError) as death:
        next(loader)
    said = killed_loader(death.value, make())
    assert said is not None
    assert f"a loader process (pid {worker.pid}) was killed" in said


def test_a_loader_that_torch_has_buried_before_the_kernel_reports(make) -> None:
    broken = RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")
    broken.__cause__ = ConnectionResetError(104, "Connection reset by peer")
    said = killed_loader(broken, make())
    assert said is not None
    assert "(pid 7) was killed" in said
    crashed = RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")
    crashed.__cause__ = RuntimeError("DataLoader worker (pid 7) is killed by signal: Segmentation")
    assert killed_loader(crashed, make()) is None


def test_evaluation_and_loaders(make, monkeypatch) -> None:
    def fail(error):
        def evaluate(*_, **__):
            raise error

        monkeypatch.setattr(loop, "evaluate", evaluate)
        with pytest.raises(UserError) as stopped:
            train(make("evaluation.interval=1", "resume_from=auto"))
        return str(stopped.value)

    assert "data.val_dataloader.samples_per_gpu, now 32" in fail(torch.OutOfMemoryError("CUDA"))
    bus = RuntimeError("DataLoader worker (pid 5) is killed by signal: Bus error. It is possible")
    assert "/dev/shm, is full" in fail(bus)
    with pytest.raises(RuntimeError, match="something else"):
        fail(RuntimeError("something else"))
