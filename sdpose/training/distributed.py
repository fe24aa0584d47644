"""The few collectives of the training loop.

With one process nothing is communicated. sdpose.runner.process_group starts and ends the group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from sdpose.errors import PEER_LOST_EXIT_CODE, USER_ERROR_EXIT_CODE, UserError

# Rank 0 may decode all images of COCO, when a dataset is prepared for the first time.
PREPARE_TIMEOUT = timedelta(hours=6)

T = TypeVar("T")


class MainEnded(SystemExit):
    """Rank 0 exits; this rank follows with the same exit code.

    Args:
        is_error: rank 0 prints an error.
    """

    def __init__(self, code: int, *, is_error: bool) -> None:
        super().__init__(code)
        self.is_error = is_error


@dataclass(frozen=True)
class World:
    """This process among the ranks of a training."""

    rank: int
    size: int
    device: torch.device
    _groups: dict[timedelta, Any] = field(default_factory=dict, compare=False)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def group(self, timeout: timedelta) -> Any:
        """Return the gloo group with this timeout; the first call is a collective.

        Groups are reused for the whole run: each has threads and a connection to every other rank,
        which torch keeps until the process group is destroyed.
        """
        if timeout not in self._groups:
            self._groups[timeout] = dist.new_group(backend="gloo", timeout=timeout)
        return self._groups[timeout]


def on_main(world: World, function: Callable[[], T], timeout: timedelta | None = None) -> T:
    """Call a function on rank 0, and return its result (picklable) on every rank.

    Args:
        timeout: of the other ranks' wait for the result; default: the process group's.
    Raises:
        Exception: the function's, on rank 0 only.
        MainEnded: on the other ranks if the function raised: with exit code 2 for a UserError, the
            code of a SystemExit, else PEER_LOST_EXIT_CODE.
    """
    if world.size == 1:
        return function()
    group = None if timeout is None else world.group(timeout)
    box: list[Any] = [None, 0, False]  # the result, else an exit code and whether it is an error
    try:
        if world.is_main:
            box[0] = function()
    except SystemExit as end:
        box[1] = end.code
        raise
    except Exception as error:
        code = USER_ERROR_EXIT_CODE if isinstance(error, UserError) else PEER_LOST_EXIT_CODE
        box[1:] = code, True
        raise
    finally:
        dist.broadcast_object_list(box, src=0, group=group, device=torch.device("cpu"))
    result: T
    result, code, is_error = box
    if code:
        raise MainEnded(code, is_error=is_error)
    return result


def mean_over_ranks(values: Tensor, world: World) -> Tensor:
    if world.size > 1:
        values = values.clone()
        dist.all_reduce(values)
        values /= world.size
    return values


class SharedStop:
    """Let all ranks stop at the same step after one of them received a request.

    Call it once per step with the local request (0: none); it returns the largest request of all
    ranks as of the previous step. The exchange, one integer over gloo, overlaps with the step, so
    neither the host nor the GPU waits for it.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._request = torch.zeros(1, dtype=torch.int32)
        self._pending: Any = None

    def __call__(self, request: int) -> int:
        if self._world.size == 1:
            return request
        agreed = self.settle()
        self._request.fill_(request)
        self._pending = dist.all_reduce(self._request, op=dist.ReduceOp.MAX, async_op=True)
        return agreed

    def settle(self) -> int:
        """Wait for the pending exchange, and return the request that all ranks agree on."""
        if self._pending is None:
            return 0
        self._pending.wait()
        self._pending = None
        return int(self._request.item())
