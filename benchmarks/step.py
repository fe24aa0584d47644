"""Training steps of every model by batch size: what the device does, and whether data keeps up.

    python benchmarks/step.py [--exp sdpose_s_v1 ...] [--batch 256 512 ...] [--data-root DIR]
        [--set KEY=VALUE ...] [--steps 30] [--json out.json]

Runs the parts of `sdpose train`: the loader, the way onto the device, the step; the experiment with
`data.pipeline=fast`. Without --data-root, on a synthetic dataset. Persons are repeated (in another
annotation file) until one epoch is enough.

"alone": the same batch over and over, which lies on the device. MFU: three times the forward pass's
counted multiply-accumulates (backward: twice as many), two operations each, a second, alone and
with data, of --peak-tflops; default: the data sheet's dense rate of known GPUs, elsewhere what a
matrix product of the step's precision reaches here. Data wait: the share of the time that the
training log calls data_time. Memory: the highest of the device, on a CPU of the process. Run: 300
epochs of COCO's 149,813 persons, without evaluations.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from machine import machine, peak_memory_mib, reset_peak_memory, show

from sdpose.config import Experiment, load_experiment
from sdpose.data.coco import load_annotations
from sdpose.data.loader import build_train_loader
from sdpose.data.pack import open_pack
from sdpose.data.samples import Batch
from sdpose.errors import user_errors
from sdpose.inference.complexity import count_macs
from sdpose.losses import build_loss
from sdpose.models import build_model
from sdpose.prepare.dataset import prepare_coco
from sdpose.tools.synthetic.dataset import write_synthetic_coco
from sdpose.training.meters import Stopwatch
from sdpose.training.optim import build_optimizer
from sdpose.training.options import StepOptions, step_options
from sdpose.training.step import train_step

OFFICIAL = ["sdpose_t", "sdpose_s_v1", "sdpose_s_v2", "sdpose_b"]
# Tensor cores, bf16, without sparsity: NVIDIA's data sheets.
PEAK_TFLOPS = {"H200": 989.4, "H100 80GB HBM3": 989.4, "H100 PCIe": 756.5, "A100": 312.0}
COCO_RUN = 300 * 149_813  # samples
WARM_UP = 3  # steps: compilation, the choice of kernels, the first batches


def main() -> None:
    args = _arguments()
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    batches = args.batch or ([64, 256, 512, 1024] if on_gpu else [8, 32])
    rows: list[dict[str, Any]] = []
    peaks: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = _data(args.data_root, Path(folder), (WARM_UP + args.steps + 2) * max(batches))
        for name, batch in itertools.product(args.exp, batches):
            overrides = [*data, f"data.samples_per_gpu={batch}", *args.set]
            experiment = load_experiment(name, overrides)
            options = step_options(experiment, device)
            precision = str(options.amp or torch.float32).removeprefix("torch.")
            if precision not in peaks:
                peaks[precision] = _peak_tflops(device, options, args.peak_tflops)
            row = {"model": name, "batch": batch, "precision": precision}
            try:
                measured = _measure(experiment, options, args.steps, peaks[precision]["tflops"])
            except torch.OutOfMemoryError:
                measured = {"samples/s": "out of memory"}
            rows.append(row | measured)
    report = {"rows": rows, "peak": peaks, "steps": args.steps, "machine": machine()}
    show("Training steps", rows, report, args.json)
    print(f"peak of MFU, TFLOP/s: {json.dumps(peaks)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--exp", nargs="+", default=OFFICIAL, help="names or YAML files")
    parser.add_argument("--batch", nargs="+", type=int, help="samples a step")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    parser.add_argument("--steps", type=int, default=30, help="that are timed, of each row")
    parser.add_argument("--peak-tflops", type=float)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _measure(
    experiment: Experiment, options: StepOptions, steps: int, peak_tflops: float
) -> dict[str, Any]:
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    with torch.device("meta"):
        macs = count_macs(build_model(experiment.model), experiment.data_cfg.image_size).total
    model = build_model(experiment.model).to(options.device).train()
    options.prepare(model)
    optimizer = build_optimizer(model.parameters(), experiment.optimizer, fused=options.fused)
    loss, scaler = build_loss(experiment.model.keypoint_head), options.scaler()
    clip = experiment.optimizer_config.grad_clip

    def step(batch: Batch) -> None:
        train_step(
            model,
            loss,
            optimizer,
            [batch],
            lr=1e-4,
            max_norm=clip.max_norm if clip else None,
            autocast=options.autocast(),
            scaler=scaler,
        )

    def run(batches: Iterator[Batch]) -> tuple[float, float]:
        """Seconds a step, and the share that waiting for data takes of them."""
        _wait(options.device)
        stopwatch.restart()
        for batch in itertools.islice(batches, steps):
            step(batch)
        _wait(options.device)
        seconds, waited = stopwatch.window(steps)
        return seconds / steps, waited / seconds

    loader = build_train_loader(experiment, pack=open_pack(str(prepare_coco(experiment).pack)))
    stopwatch = Stopwatch()
    reset_peak_memory(options.device)
    try:
        loaded = (loader.epoch(epoch) for epoch in itertools.count(1))
        batches = options.on_device(stopwatch.waiting_for(itertools.chain.from_iterable(loaded)))
        for batch in itertools.islice(batches, WARM_UP):
            step(batch)
        with_data, data_wait = run(batches)
        alone, _ = run(itertools.repeat(batch))
    finally:
        loader.close()
    operations = 3 * 2 * macs * loader.global_batch
    return {
        "samples/s": loader.global_batch / with_data,
        "alone": loader.global_batch / alone,
        "MFU %": operations / with_data / peak_tflops / 1e10,
        "MFU % alone": operations / alone / peak_tflops / 1e10,
        "data wait %": data_wait * 100,
        "memory MiB": peak_memory_mib(options.device),
        "run min": COCO_RUN / loader.global_batch * with_data / 60,
    }


def _data(root: Path | None, folder: Path, num_persons: int) -> list[str]:
    """Overrides: a dataset with that many persons to train on at least, packed in `folder`."""
    if root is None:
        root = folder / "coco"
        write_synthetic_coco(root, num_train=200, num_val=1, seed=0)
    annotations = root / "annotations/person_keypoints_train2017.json"
    load_annotations(annotations)  # says what is wrong with it
    document = json.loads(annotations.read_text())
    people = document["annotations"]
    usable = sum(bool(p.get("num_keypoints")) and not p["iscrowd"] for p in people)
    copies = range(-(-num_persons // usable))
    document["annotations"] = [
        person | {"id": 1 + copy * len(people) + index}
        for copy in copies
        for index, person in enumerate(people)
    ]
    repeated = folder / "train.json"
    repeated.write_text(json.dumps(document))
    return [
        f"data_root={root.absolute()}",
        f"data.train.ann_file={repeated}",
        "data.train.img_prefix=train2017",
        "data.pipeline=fast",
        f"data.pack_dir={folder}/packs",
        f"data.workers_per_gpu={max(1, min(15, (os.cpu_count() or 1) - 1))}",
    ]


def _peak_tflops(device: torch.device, options: StepOptions, given: float | None) -> dict[str, Any]:
    if given is not None:
        return {"tflops": given, "of": "--peak-tflops"}
    if device.type == "cuda" and options.amp is not None:
        name = torch.cuda.get_device_name(device)
        for known, tflops in PEAK_TFLOPS.items():
            if known in name:
                return {"tflops": tflops, "of": f"data sheet, {known}"}
    size = 8192 if device.type == "cuda" else 1024
    matrix = torch.randn(size, size, device=device, dtype=options.amp or torch.float32)
    seconds = []
    for _ in range(8):
        _wait(device)
        before = time.perf_counter()
        matrix @ matrix
        _wait(device)
        seconds.append(time.perf_counter() - before)
    return {"tflops": 2 * size**3 / min(seconds) / 1e12, "of": f"matrix product of {size}"}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    with user_errors():
        main()
