"""Loader processes neither grow while they load, nor with the number of samples.

Measured in a process of its own. Resident sizes, in MiB, of it and of its one worker.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from packed import fast_experiment

from sdpose.prepare.dataset import prepare_coco

MEASURED = """
import itertools, json, sys
from pathlib import Path
import numpy as np
import psutil
from packed import fast_experiment
from sdpose.data.loader import build_train_loader
from sdpose.data.pack import open_pack

def resident():
    process = psutil.Process()
    return [p.memory_info().rss / 2**20 for p in (process, *process.children())]

def after(loader, *batches):
    # Largest resident sizes of so many batches each, of as many epochs as that takes: one moment's
    # size tells whether a batch of 11 MiB was being made.
    loaded = itertools.chain.from_iterable(loader.epoch(epoch) for epoch in itertools.count(1))
    found = []
    for count in batches:
        sizes = [resident() for _ in itertools.islice(loaded, count)]
        found.append([max(each) for each in zip(*sizes)])
    loader.close()
    return found

root, folder, pipeline = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
persons, batches = json.loads(sys.argv[4]), json.loads(sys.argv[5])
found = []
for count in persons:
    if count is not None:
        rows = np.load(folder / "persons.npy")
        np.save(folder / "persons.npy", np.resize(rows, count))
        del rows
    pack = None if pipeline == "exact" else open_pack(str(folder))
    loader = build_train_loader(fast_experiment(root, "", batch=64, workers=1), pack=pack)
    found += after(loader, *batches)
print(json.dumps(found))
"""


def resident(root, pack, pipeline, *, persons=(None,), batches):
    """(process, worker) for each number of persons (None: as they are), in so many batches."""
    arguments = [str(root), pack, pipeline, json.dumps(persons), json.dumps(batches)]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments],
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        text=True,
        timeout=280,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.fixture
def pack(coco_mini, tmp_path, monkeypatch):
    monkeypatch.setenv("SDPOSE_CACHE", str(tmp_path / "cache"))
    return prepare_coco(fast_experiment(coco_mini, tmp_path / "packs")).pack


@pytest.mark.parametrize("pipeline", ["exact", "fast"])
def test_a_worker_does_not_grow(coco_mini, pack, pipeline):
    """It has what it needs within 1280 samples (14 epochs of coco-mini); in the next 2560 it
    takes no more. Did it keep a byte a pixel of what it loaded, it would be 120 MiB."""
    (_, before), (_, after) = resident(coco_mini, pack, pipeline, batches=[20, 40])
    assert after - before < 32


def test_memory_does_not_depend_on_the_number_of_persons(coco_mini, pack):
    """The index of 1.5 million persons has 366 MiB. What grows is the order of an epoch: some 20
    bytes a person, 30 MiB here, which a worker shares with its parent."""
    (small, small_worker), (large, large_worker) = resident(
        coco_mini, pack, "fast", persons=[15_000, 1_500_000], batches=[100]
    )
    assert large_worker - small_worker < 64
    assert large - small < 64
