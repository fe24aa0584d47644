"""The training loader on real photos: the same batches however they are loaded."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sdpose.config import Experiment
from sdpose.data.coco import load_annotations
from sdpose.data.loader import build_train_loader
from sdpose.data.randomness import epoch_order, sample_keys
from sdpose.errors import UserError


def experiment(root: Path, batch: int, workers: int = 0, **changes) -> Experiment:
    return Experiment(
        exp_name="loader",
        data_root=str(root),
        data={"samples_per_gpu": batch, "workers_per_gpu": workers},
        **changes,
    )


def assert_same(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for name in batch:
            assert torch.equal(batch[name], other[name]), name


@pytest.fixture(scope="module")
def one_epoch(coco_mini):
    """Epoch 1 in global batches of 16, loaded by one process without workers."""
    loader = build_train_loader(experiment(coco_mini, 16))
    assert len(loader) == 6
    return list(loader.epoch(1))


def test_a_batch_is_what_the_model_and_the_loss_take(one_epoch):
    shapes = {name: (tuple(value.shape), value.dtype) for name, value in one_epoch[0].items()}
    assert shapes == {
        "images_N3HW": ((16, 3, 256, 192), torch.float32),
        "targets_NKHW": ((16, 17, 64, 48), torch.float32),
        "target_weights_NK": ((16, 17), torch.float32),
        "sample_keys_N": ((16,), torch.int64),
        "sample_ids_N": ((16,), torch.int64),
    }
    weights_NK = one_epoch[0]["target_weights_NK"]
    assert set(weights_NK.unique().tolist()) == {0.0, 1.0}
    drawn_NK = one_epoch[0]["targets_NKHW"].flatten(2).any(dim=-1)
    assert torch.equal(drawn_NK, weights_NK > 0)


def test_an_epoch_has_every_person_once_and_wraps_round(one_epoch, coco_mini):
    ids = torch.cat([batch["sample_ids_N"] for batch in one_epoch]).tolist()
    annotations = load_annotations(coco_mini / "annotations/person_keypoints_train2017.json")
    persons = annotations.persons().ann_id.tolist()
    assert sorted(ids[: len(persons)]) == sorted(persons)
    assert ids[len(persons) :] == ids[: len(ids) - len(persons)]
    # the repeated samples are the same ones to the last pixel
    assert torch.equal(one_epoch[-1]["images_N3HW"][-1], one_epoch[0]["images_N3HW"][9])


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_the_global_batches_of_one(one_epoch, coco_mini, world_size):
    parts = []
    for rank in range(world_size):
        loader = build_train_loader(
            experiment(coco_mini, 16 // world_size), rank=rank, world_size=world_size
        )
        parts.append(list(loader.epoch(1)))
    joined = [
        {name: torch.cat([part[name] for part in step]) for name in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_same(joined, one_epoch)


def test_workers_resume_and_restart_change_nothing(one_epoch, coco_mini):
    loader = build_train_loader(experiment(coco_mini, 16, workers=2))
    try:
        assert_same(list(loader.epoch(1)), one_epoch)
        assert_same(list(loader.epoch(1, start_iteration=4)), one_epoch[4:])
        for _ in loader.epoch(2):
            break  # an epoch that is left in the middle
        assert_same(list(loader.epoch(1)), one_epoch)
        loader.close()
        assert_same(list(loader.epoch(1, start_iteration=5)), one_epoch[5:])
    finally:
        loader.close()


def test_the_seed_and_the_epoch_change_order_and_augmentation(one_epoch, coco_mini):
    ids = one_epoch[0]["sample_ids_N"]
    for loader, epoch in [
        (build_train_loader(experiment(coco_mini, 16)), 2),
        (build_train_loader(experiment(coco_mini, 16, seed=1)), 1),
    ]:
        batch = next(loader.epoch(epoch))
        assert not torch.equal(batch["sample_ids_N"], ids)
        assert not set(batch["sample_keys_N"].tolist()) & set(
            one_epoch[0]["sample_keys_N"].tolist()
        )


def test_a_sample_of_a_set_smaller_than_the_batch_repeats(coco_mini):
    loader = build_train_loader(experiment(coco_mini, 100), rank=1, world_size=2)
    (batch,) = loader.epoch(1)
    expected = np.resize(epoch_order(loader.num_samples, 0, 1), 200)[100:]
    keys = torch.from_numpy(sample_keys(0, 1, expected).view(np.int64))
    assert torch.equal(batch["sample_keys_N"], keys)


def test_keys_are_unique_and_mixed():
    rows = np.arange(20_000)
    keys = np.concatenate([sample_keys(seed, epoch, rows) for seed in (0, 1) for epoch in (1, 2)])
    assert len(np.unique(keys)) == len(keys)
    bits = np.unpackbits(keys.view(np.uint8).reshape(-1, 8), axis=1)
    np.testing.assert_allclose(bits.mean(axis=0), 0.5, atol=0.01)
    neighbours = np.unpackbits((keys[1:] ^ keys[:-1]).view(np.uint8).reshape(-1, 8), axis=1)
    np.testing.assert_allclose(neighbours.sum(axis=1).mean(), 32, atol=0.2)


def test_torch_random_state_is_left_alone(coco_mini):
    before = torch.get_rng_state()
    next(build_train_loader(experiment(coco_mini, 2)).epoch(1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def damaged(coco_mini, tmp_path):
    """coco-mini with one photo cut off; returns the folder and the photo's name."""
    root = tmp_path / "coco"
    shutil.copytree(coco_mini, root)
    annotations = load_annotations(root / "annotations/person_keypoints_train2017.json")
    name = annotations.file_names[annotations.persons().image_index[0]]
    photo = root / "train2017" / name
    photo.chmod(0o644)
    photo.write_bytes(photo.read_bytes()[:5000])
    return root, name


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_photo_is_named(damaged, workers):
    root, name = damaged
    loader = build_train_loader(experiment(root, 16, workers))
    with pytest.raises(UserError, match=rf"{name}: cut off(.|\n)*data\.on_corrupt=skip"):
        list(loader.epoch(1))
    loader.close()


def test_skipped_photos_are_left_out(damaged):
    root, name = damaged
    loader = build_train_loader(experiment(root, 16), skip_images=frozenset({name}))
    assert loader.num_samples < 86
    batches = list(loader.epoch(1))
    assert sum(len(batch["sample_ids_N"]) for batch in batches) == 16 * len(loader)


def test_nothing_to_train_on_is_a_user_error(damaged):
    root, _ = damaged
    every_photo = frozenset(path.name for path in (root / "train2017").iterdir())
    with pytest.raises(UserError, match="no person to train on"):
        build_train_loader(experiment(root, 16), skip_images=every_photo)


TRAINING = """
import multiprocessing, signal, sys
from sdpose.config import Experiment

from sdpose.data.loader import build_train_loader

stop = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: stop.append(number))
loader = build_train_loader(Experiment(
    exp_name="x", data_root=sys.argv[1], data={"samples_per_gpu": 4, "workers_per_gpu": 2}))
batches = loader.epoch(1)
next(batches)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
sys.stdin.readline()
print("signals", len(stop), "batches", 1 + len(list(batches)), flush=True)
if sys.argv[2] == "close":
    loader.close()
    print("workers", len(multiprocessing.active_children()))
"""


@pytest.mark.parametrize("ending", ["close", "exit"])
def test_signals_to_the_process_group_spare_the_workers(coco_mini, ending):
    """As Ctrl-C and torchrun send them: the training process decides, and its workers go on."""
    training = subprocess.Popen(
        [sys.executable, "-c", TRAINING, str(coco_mini), ending],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    workers = [int(pid) for pid in training.stdout.readline().split()]
    assert len(workers) == 2
    for number in (signal.SIGINT, signal.SIGTERM):
        os.killpg(training.pid, number)
    output, _ = training.communicate("go on\n", timeout=240)
    expected = "signals 2 batches 22\n" + ("workers 0\n" if ending == "close" else "")
    assert output == expected
    assert training.returncode == 0
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)
