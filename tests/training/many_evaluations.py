"""One process of several: `python many_evaluations.py TIMES`, with RANK and the like set.

Does TIMES times what every evaluated epoch does between the processes, and prints what this process
holds after the first time and after the last one.
"""

from __future__ import annotations

import sys

import psutil
import torch.distributed as dist

from sdpose.training.distributed import PREPARE_TIMEOUT, on_main, process_group


def main(times: int) -> None:
    process = psutil.Process()
    with process_group() as world:
        for number in range(1, times + 1):
            assert on_main(world, lambda: number, timeout=PREPARE_TIMEOUT) == number  # noqa: B023
            if number in (1, times):
                groups = len(dist.distributed_c10d._world.pg_map)
                print(process.num_fds(), process.num_threads(), groups, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
