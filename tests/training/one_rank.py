"""One process of several in which one fails: `python one_rank.py CASE`, as torchrun starts it.

main       rank 0 meets an error, and takes a while to end
interrupt  rank 0 is asked to end
other      every rank but 0 meets an error that rank 0 does not
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from sdpose.errors import UserError, user_errors
from sdpose.runner.process_group import process_group
from sdpose.runner.stop_signals import Interrupted
from sdpose.training.distributed import on_main


def fail(case: str) -> None:
    if case == "interrupt":
        raise Interrupted(15)
    raise UserError("MLflow cannot be written")


def main(case: str) -> None:
    with user_errors(), process_group() as world:
        if case != "other":
            try:
                on_main(world, lambda: fail(case))
            finally:
                if world.is_main and case == "main":
                    time.sleep(2)  # the last uploads
                    Path(os.environ["UPLOADED"]).touch()
        elif world.is_main:
            dist.all_reduce(torch.zeros(1))
        else:
            raise UserError("lost.jpg cannot be read")


if __name__ == "__main__":
    main(sys.argv[1])
