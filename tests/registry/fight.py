"""Many processes at once at one registry: `python fight.py ROOT FOLDER PROCESSES PROMOTIONS`.

FOLDER holds checkpoints. Every one of them is registered by two processes; then all promote, each a
version that the others do not have in mind. Prints what each of them was told, as JSON.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import queue
import signal
import sys
from pathlib import Path
from typing import Any

import mlflow  # noqa: F401 (once, and not in every process)
import torch

from sdpose.config import parse_experiment
from sdpose.log_setup import log_to
from sdpose.registry.promote import promote
from sdpose.registry.register import register_checkpoint
from sdpose.storage import open_store

FULL = os.environ.get("SDPOSE_FIGHT") == "full"
LIFE_SECONDS = 3000 if FULL else 280
CHANNEL = "candidate"


def fighter(
    number: int,
    root: str,
    paths: list[Path],
    processes: int,
    promotions: int,
    barrier: Any,
    to: Any,
) -> None:
    signal.alarm(LIFE_SECONDS)  # whatever becomes of the others
    torch.set_num_threads(1)
    store = open_store(root)
    told: list[dict[str, Any]] = []
    warnings: list[str] = []
    log = log_to(warnings.append, ["sdpose.registry"])
    log.__enter__()  # to the end of this process
    barrier.wait(LIFE_SECONDS)
    mine = [p for i, p in enumerate(paths) if number in (i % processes, (i + 1) % processes)]
    for path in mine:
        meta = torch.load(path, weights_only=True)["meta"]
        version = register_checkpoint(
            "tiny",
            path,
            experiment=parse_experiment(meta["experiment"]),
            metrics={"AP": 0.5},
            git_commit="",
            root=store,
        )
        told.append({"name": path.name, "version": version.version, "created": version.created})
    barrier.wait(LIFE_SECONDS)
    records = []
    for turn in range(number, promotions, processes):
        version_number = 1 + turn * 7 % len(paths)
        record = promote(store, "tiny", version_number, CHANNEL, approver=f"{number}")
        records.append({"wanted": version_number, "turn": turn, **record})
    to.put({"registered": told, "promoted": records, "warnings": warnings})


def main(root: str, folder: str, processes: int, promotions: int) -> None:
    paths = sorted(Path(folder).glob("*.pth"))
    # Forked when all is imported and nothing was computed: 16 imports of torch take a minute.
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(processes), context.Queue()
    started = [
        context.Process(
            target=fighter,
            args=(i, root, paths, processes, promotions, barrier, answers),
            daemon=True,  # none outlives this process
        )
        for i in range(processes)
    ]
    for process in started:
        process.start()
    told: list[dict[str, Any]] = []
    while len(told) < processes:
        try:
            told.append(answers.get(timeout=5))
        except queue.Empty:
            if any(process.exitcode for process in started):
                sys.exit("a fighter has died")
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
