"""Experiments that train from a pack."""

from __future__ import annotations

from sdpose.config import Experiment
from sdpose.pack_store import prepare_pack
from sdpose.prepare.dataset import PreparedDataset, prepare_coco


def fast_experiment(root, pack_dir, *, batch=16, workers=0, **changes) -> Experiment:
    """pack_dir: a path or a URI."""
    return Experiment(
        exp_name="fast",
        data_root=str(root),
        data={
            "samples_per_gpu": batch,
            "workers_per_gpu": workers,
            "pipeline": "fast",
            "pack_dir": str(pack_dir),
        },
        **changes,
    )


def prepare(experiment: Experiment) -> PreparedDataset:
    """Packs into folders and stores, as training does."""
    return prepare_coco(experiment, pack_into=prepare_pack)


# A program: prepares the data of argv[1] in the packs of argv[2], and is killed after 15 photos.
KILLED_AFTER_15 = """
import os, sys
from pathlib import Path
from packed import fast_experiment
from sdpose.prepare import pack_builder as build
from sdpose.prepare.dataset import prepare_coco

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one photo after the other
build.SHARD_BYTES, decode_image, photos = 1, build.decode_image, []
def decode(data, name):
    photos.append(name)
    if len(photos) == 15:
        os._exit(9)
    return decode_image(data, name)
build.decode_image = decode
prepare_coco(fast_experiment(Path(sys.argv[1]), Path(sys.argv[2])))
"""
