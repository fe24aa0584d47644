"""Loading training samples on one CPU core, step by step, both pipelines, warm and cold cache.

    python benchmarks/data.py [--data-root DIR] [--batch 64] [--seconds 5] [--json out.json]

Without --data-root it makes a synthetic dataset first. One process pinned to one core loads batches
of random samples; CPU time is what counts, so that a busy machine does not distort it much. Steps
are timed in a pass of their own. `finish` is what a GPU does instead where there is one. "Cold"
means that the files are out of the page cache; waiting for the disk is then in the wall time alone.
The pack is made in a temporary folder.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from machine import machine, show

from sdpose.config import Experiment
from sdpose.data import device, samples
from sdpose.data.device import finish
from sdpose.data.loader import build_train_loader
from sdpose.data.pack import Pack, open_pack
from sdpose.data.samples import TrainSamples
from sdpose.errors import user_errors
from sdpose.prepare.dataset import prepare_coco
from sdpose.tools.synthetic.dataset import write_synthetic_coco

# mmpose 0.29's pipeline on the same photos, samples/s on one core.
REFERENCE = 330
STEPS = {
    "exact": [
        ("read and decode the photo", samples, "read_image"),
        ("draw the crop", TrainSamples, "_draw"),
        ("warp", samples, "warp_crop"),
        ("normalise", samples, "normalize"),
        ("targets", samples, "encode"),
    ],
    "fast": [
        ("draw the crop", TrainSamples, "_draw"),
        ("copy its part of the photo", Pack, "read"),
        ("factors of the targets", samples, "target_factors"),
        ("find its part", samples, "source_regions"),
        ("finish: warp, normalise", device, "_crops_on_cpu"),
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each measurement")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        root = args.data_root or _synthetic(Path(folder))
        experiment = Experiment(
            exp_name="benchmark",
            data_root=str(root),
            data={
                "samples_per_gpu": args.batch,
                "workers_per_gpu": 0,
                "pipeline": "fast",
                "pack_dir": f"{folder}/packs",
            },
        )
        pack = prepare_coco(experiment).pack
        assert pack is not None
        files = {"exact": list((root / experiment.data.train.img_prefix).iterdir())}
        files["fast"] = list(Path(pack).iterdir())
        rows: list[dict[str, Any]] = []
        for pipeline in ("exact", "fast"):
            loaded = build_train_loader(
                experiment, pack=open_pack(pack) if pipeline == "fast" else None
            )
            rows += _measure(pipeline, loaded._samples, files[pipeline], args)
    report = {"batch": args.batch, "data_root": str(root), "rows": rows, "machine": machine()}
    report["reference_samples_per_s_core"] = REFERENCE
    show("Loading a training sample, one core", rows, report, args.json)


def _measure(
    pipeline: str, loaded: TrainSamples, files: list[Path], args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    finishes = (False, True) if pipeline == "fast" else (False,)
    _run(loaded, args, seconds=0)  # warms up
    for cache in ("warm", "cold"):
        for with_finish in finishes:
            cold = files if cache == "cold" else []
            cpu, wall, _ = _run(loaded, args, with_finish=with_finish, forget=cold)
            yield {
                "what": f"{pipeline}, {cache} cache" + " + finish" * with_finish,
                "CPU ms": cpu * 1e3,
                "samples/s/core": 1 / cpu,
                "x reference": 1 / cpu / REFERENCE,
                "wall ms": wall * 1e3,
            }
    with _timed(pipeline) as seconds:
        _, _, batches = _run(loaded, args, with_finish=True)
    for name, total in seconds.items():
        yield {"what": f"  {name}", "CPU ms": total / args.batch / batches * 1e3}


def _run(
    loaded: TrainSamples,
    args: argparse.Namespace,
    *,
    seconds: float | None = None,
    with_finish: bool = False,
    forget: Sequence[Path] = (),
) -> tuple[float, float, int]:
    """CPU and wall seconds a sample (medians over batches), and the number of batches.

    `forget`: files that are thrown out of the page cache before every batch.
    """
    rng = np.random.default_rng(0)
    cpu: list[float] = []
    wall: list[float] = []
    end = time.perf_counter() + (args.seconds if seconds is None else seconds)
    while not cpu or time.perf_counter() < end:
        rows_N = rng.integers(0, len(loaded), args.batch)
        for path in forget:
            _forget(path)
        cpu_before, wall_before = time.process_time(), time.perf_counter()
        batch = loaded[(len(cpu) + 1, rows_N)]
        assert isinstance(batch, dict), batch
        if with_finish:
            finish(batch, loaded.settings.image_size_wh)
        cpu.append(time.process_time() - cpu_before)
        wall.append(time.perf_counter() - wall_before)
    return float(np.median(cpu)) / args.batch, float(np.median(wall)) / args.batch, len(cpu)


def _forget(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


@contextlib.contextmanager
def _timed(pipeline: str) -> Iterator[dict[str, float]]:
    """CPU seconds in each step; what one step calls of another counts for both."""
    seconds: defaultdict[str, float] = defaultdict(float)

    def wrapped(name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            before = time.process_time()
            result = function(*args, **kwargs)
            seconds[name] += time.process_time() - before
            return result

        return call

    originals = [(owner, name, getattr(owner, name)) for _, owner, name in STEPS[pipeline]]
    for label, owner, name in STEPS[pipeline]:
        setattr(owner, name, wrapped(label, getattr(owner, name)))
    try:
        yield seconds
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def _synthetic(folder: Path) -> Path:
    write_synthetic_coco(folder / "coco", num_train=200, num_val=2, seed=0)
    return folder / "coco"


if __name__ == "__main__":
    with user_errors():
        main()
