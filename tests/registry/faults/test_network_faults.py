"""Networks and servers that fail, at every request of register, promote and pull.

Afterwards the operation is complete or nothing of it is visible, trying again finishes it, once,
and no damaged byte is taken. Here a sample of the cases; `make faults`: all of them.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable

import pytest
from operations import OPERATIONS, Client
from servers.proxy import (
    SLOW_DOWN,
    Answer,
    Cut,
    Delay,
    Fault,
    FaultProxy,
    FlipBit,
    Request,
    Truncate,
)

from sdpose.errors import UserError

pytestmark = pytest.mark.slow

ALL = os.environ.get("SDPOSE_FAULTS") == "all"
SERVERS = ("moto", "swift")
TIMEOUT_SECONDS, DELAY_SECONDS = 1.0, 1.5

FAULTS: tuple[Fault, ...] = (
    Cut("before"),
    Cut("upload"),
    Cut("after"),
    Cut("answer"),
    Answer(500),
    Answer(503, "ServiceUnavailable"),
    SLOW_DOWN,
    Delay(DELAY_SECONDS),  # the server hears of it after the client has tried again
    Truncate("upload"),
    Truncate("answer"),
    FlipBit("upload"),
    FlipBit("answer"),
)


def _requests_of(operation: str, proxy: FaultProxy, client: Client) -> range:
    client.store.uri("x")
    proxy.reset()
    client.run(operation)
    numbers = range(1, len(proxy.requests) + 1)
    assert client.is_done(operation)
    return numbers


def _sample(numbers: range, which: int, apart: int) -> range:
    """The samples of successive faults have, together, every `apart`-th number."""
    return numbers if ALL else numbers[apart * (which % len(FAULTS)) :: apart * len(FAULTS)]


@pytest.mark.timeout(7200 if ALL else 300)
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("server", SERVERS, indirect=True)
def test_one_request_fails(server, operation, proxy, fresh, monkeypatch):
    numbers = _requests_of(operation, proxy, fresh())
    cases = 0
    for which, fault in enumerate(FAULTS, start=OPERATIONS.index(operation)):
        late = isinstance(fault, Delay)
        monkeypatch.setenv("SDPOSE_S3_TIMEOUT", str(TIMEOUT_SECONDS if late else 60))
        for number in _sample(numbers, which, apart=3 if server.name == "moto" else 6):
            client = fresh()
            proxy.fault_at(number, fault)
            try:
                client.run(operation)
                assert len(proxy.requests) >= number
                if late:
                    time.sleep(DELAY_SECONDS - TIMEOUT_SECONDS + 0.3)
                proxy.reset()
                assert client.is_done(operation)
            except Exception as error:
                error.add_note(f"{fault} at request {number} of {operation}")
                raise
            shutil.rmtree(client.folder)
            cases += 1
    print(f"{server.name}, {operation}: {len(numbers)} requests, {cases} cases")


@pytest.mark.timeout(7200 if ALL else 300)
@pytest.mark.parametrize("lost", ["request", "answer"])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("server", SERVERS if ALL else SERVERS[:1], indirect=True)
def test_the_server_is_gone_from_some_request_on(
    server, operation, lost, proxy, fresh, monkeypatch
):
    fault = Cut("before" if lost == "request" else "after")

    def gone_from(number: int) -> Callable[[Request], Fault | None]:
        return lambda request: fault if request.number >= number else None

    numbers = _requests_of(operation, proxy, fresh())
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    outcomes = []
    for number in numbers if ALL else numbers[-6:-5]:
        client = fresh()
        proxy.reset()
        proxy.plan = gone_from(number)
        with pytest.raises(UserError, match="gave up after 2 attempts"):
            client.run(operation)
        proxy.reset()
        outcomes.append(client.is_done(operation))  # both are right; in part is not
        client.run(operation)
        assert client.is_done(operation), number
    what = f"{server.name}, {operation}, {lost} lost"
    print(f"{what}: complete in {sum(outcomes)} of {len(outcomes)} cases")
