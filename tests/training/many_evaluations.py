"""One process of several: `python many_evaluations.py TIMES [MORE]`, with RANK and the like set.

Does TIMES times what every evaluated epoch does between the processes, and prints what this process
holds after the first time and after the last one. MORE: descriptors that it may still open.
"""

from __future__ import annotations

import resource
import sys

import psutil
import torch.distributed as dist

from sdpose.errors import user_errors
from sdpose.runner.process_group import process_group
from sdpose.training.distributed import PREPARE_TIMEOUT, on_main


def main(times: int, more: int | None = None) -> None:
    process = psutil.Process()
    with user_errors(), process_group() as world:
        if more is not None:
            files = process.num_fds() + more
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
        for number in range(1, times + 1):
            assert on_main(world, lambda: number, timeout=PREPARE_TIMEOUT) == number  # noqa: B023
            if number in (1, times):
                groups = len(dist.distributed_c10d._world.pg_map)
                print(process.num_fds(), process.num_threads(), groups, flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
