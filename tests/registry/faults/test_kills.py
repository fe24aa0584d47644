"""kill -9 at every step of register, promote and pull.

Afterwards the operation is complete or nothing of it is visible, and doing it again finishes it,
once. On S3 a step is a request, killed before the server hears of it and after it has done it; in a
folder a step is a change of a file. Here a sample of the steps; `make faults`: all of them.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from concurrent.futures import Future
from dataclasses import replace
from functools import partial

import pytest
from operations import OPERATIONS, Client, make_registry, new_folder, run_in_child
from servers.proxy import Call

pytestmark = pytest.mark.slow

ALL = os.environ.get("SDPOSE_FAULTS") == "all"
SECONDS = 240  # for one operation, with the imports of its process

# Forks of the test process would inherit the locks of torch's threads.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["sdpose.cli", "sdpose.registry.promote", "sdpose.models", "boto3"])


def _start(operation, client, environment, kill_at=None):
    arguments = (operation, client, environment, kill_at)
    process = context.Process(target=run_in_child, args=arguments)
    process.start()
    return process


def _end(process) -> int:
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
        process.join(SECONDS)
        pytest.fail("the operation neither ended nor was killed")
    return process.exitcode


def _kill(victim: Future[int]) -> None:
    # Not Process.join: its exit code can be read by one thread only.
    os.kill(victim.result(SECONDS), signal.SIGKILL)


def _sample(steps: range, first: int = 0) -> range:
    return steps if ALL else steps[first::10]


@pytest.mark.timeout(7200 if ALL else 300)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("server", ("moto", "swift") if ALL else ("moto",), indirect=True)
def test_killed_at_a_request(server, operation, when, proxy, fresh, environment):
    client = fresh()
    proxy.reset()
    assert _end(_start(operation, client, environment)) == 0
    steps = range(1, len(proxy.requests) + 1)
    outcomes = []
    for step in _sample(steps, OPERATIONS.index(operation) + len(when)):
        client = fresh()
        victim: Future[int] = Future()
        proxy.fault_at(step, Call(partial(_kill, victim), when))
        process = _start(operation, client, environment)
        victim.set_result(process.pid)
        assert _end(process) == -signal.SIGKILL
        proxy.reset()
        outcomes.append(client.is_done(operation))
        client.run(operation)
        assert client.is_done(operation), step
    print(
        f"{server.name}, {operation}, {when}: complete in {sum(outcomes)} of {len(outcomes)} cases"
    )


@pytest.mark.timeout(7200 if ALL else 300)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_killed_at_a_change_of_a_file(operation, checkpoints, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    original = Client(str(tmp_path / "original"), checkpoints, checkpoints)
    make_registry(original)

    def fresh_folder() -> Client:
        folder = new_folder(tmp_path)
        shutil.copytree(original.uri, folder.parent / "registry")
        return replace(original, uri=str(folder.parent / "registry"), folder=folder)

    client = fresh_folder()
    assert _end(_start(operation, client, {}, kill_at=0)) == 0
    steps = range(1, int(client.folder.with_suffix(".changes").read_text()) + 1)
    outcomes = []
    for step in _sample(steps):
        client = fresh_folder()
        assert _end(_start(operation, client, {}, kill_at=step)) == -signal.SIGKILL
        outcomes.append(client.is_done(operation))
        client.run(operation)
        assert client.is_done(operation), step
        shutil.rmtree(client.folder.parent)
    print(f"{operation}: complete in {sum(outcomes)} of {len(outcomes)} cases")
