"""How training scales from 1 to 64 GPUs, computed: docs/scaling.md has the formulae.

    python benchmarks/scaling.py [--exp sdpose_s_v1] [--gpu-rate 10000] [--batch 512]
        [--global-batch 1024] [--network 400 12.5] [--json out.json]

Counted from the experiment's model: bytes of gradients and their buckets, BatchNorms that are
synchronised, kernels of a step. Measured, results.md: CPU time a sample, bytes a sample, seconds of
scoring. Assumed, and options: all that is of a GPU or a network; `step.py` measures --gpu-rate.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine, show
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sdpose.config import Experiment, load_experiment
from sdpose.errors import user_errors
from sdpose.losses import build_loss
from sdpose.models import build_model
from sdpose.prepare.pack_builder import SHARD_BYTES

PERSONS, PACK_BYTES = 149_813, 48e9  # of COCO train2017, persons to train on
GPUS_A_NODE = 8
CPU_SECONDS = 0.099e-3  # a sample in a loader process, pipeline fast
SCORE_SECONDS = 8.3  # OKS-NMS and AP of COCO val2017's detections: the first rank alone
EVALUATIONS = 30
FIRST_BUCKET, BUCKET = 1 << 20, 25 << 20  # DistributedDataParallel's


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--exp", default="sdpose_s_v1")
    parser.add_argument("--gpu-rate", type=float, default=10_000, help="samples/s, one GPU alone")
    parser.add_argument("--batch", type=int, default=512, help="samples a GPU, weak scaling")
    parser.add_argument("--global-batch", type=int, default=1024, help="strong scaling")
    parser.add_argument("--nvlink", type=float, default=300, help="GB/s a GPU, in a node")
    parser.add_argument("--network", type=float, nargs="+", default=[400, 12.5], help="GB/s a node")
    parser.add_argument("--latency", type=float, default=20, help="us, a small collective's hop")
    parser.add_argument("--launch", type=float, default=4, help="us, the host's for a kernel")
    parser.add_argument("--jitter", type=float, default=1, help="%%, deviation of a GPU's steps")
    parser.add_argument("--eval-seconds", type=float, default=40, help="keypoints of val, one GPU")
    parser.add_argument("--store", type=float, default=1.2, help="GB/s a node, from S3")
    parser.add_argument("--dollars", type=float, default=3, help="for a GPU for an hour")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    experiment = load_experiment(args.exp)
    counted = _count(experiment)
    rows = [
        {"scaling": scaling, "network": network, **_row(args, counted, batch, gpus, network)}
        for scaling in ("weak", "strong")
        for gpus in (1, 2, 4, 8, 16, 32, 64)
        for network in args.network[: None if gpus > GPUS_A_NODE else 1]
        if (batch := args.batch if scaling == "weak" else args.global_batch // gpus)
    ]
    settings = {name: value for name, value in vars(args).items() if name != "json"}
    report = {"rows": rows, "counted": counted, "settings": settings, "machine": machine()}
    show(f"{args.exp}, 300 epochs of COCO (computed, not measured)", rows, report, args.json)
    print(f"counted: {counted}")


def _row(
    args: argparse.Namespace, counted: dict[str, Any], batch: int, gpus: int, network: float
) -> dict[str, Any]:
    launch = counted["kernels"] * args.launch * 1e-6
    compute = max(batch / args.gpu_rate, launch)
    slowest = compute * _slowest(gpus, args.jitter / 100)
    reduce = _exposed_all_reduce(args, counted["buckets"], 2 / 3 * compute, gpus, network)
    sync_bn = counted["batch_norms"] * 2 * math.ceil(math.log2(gpus)) * args.latency * 1e-6
    step = slowest + reduce + sync_bn
    steps = math.ceil(PERSONS / (batch * gpus))
    evaluation = args.eval_seconds / gpus + SCORE_SECONDS
    first_wait = _first_epoch_wait(batch, gpus, step, args.store * 1e9)
    run = 300 * steps * step + EVALUATIONS * evaluation + first_wait
    rate = batch * gpus / step
    return {
        "GPUs": gpus,
        "batch": batch,
        "step ms": step * 1e3,
        "reduce ms": reduce * 1e3,
        "SyncBN ms": sync_bn * 1e3,
        "samples/s": rate,
        "effic. %": 100 * rate / (gpus * args.gpu_rate),
        "epoch s": steps * step,
        "S3 s": first_wait,
        "cores/node": rate / max(1, gpus / GPUS_A_NODE) * CPU_SECONDS,
        "run min": run / 60,
        "run $": run / 3600 * gpus * args.dollars,
    }


def _exposed_all_reduce(
    args: argparse.Namespace, buckets: list[int], backward: float, gpus: int, network: float
) -> float:
    """Seconds after the end of the backward pass: a bucket leaves when its gradients are there
    (backward seconds taken as proportional to bytes) and the one before it is through."""
    if gpus == 1:
        return 0.0
    # A ring enters and leaves every node once; several links carry a ring each.
    bandwidth = (args.nvlink if gpus <= GPUS_A_NODE else min(args.nvlink, network)) * 1e9
    free, produced = 0.0, 0
    for size in buckets:
        produced += size
        start = max(free, backward * produced / sum(buckets))
        hops = 2 * math.ceil(math.log2(gpus))
        free = start + 2 * (gpus - 1) / gpus * size / bandwidth + hops * args.latency * 1e-6
    return free - backward


def _slowest(gpus: int, deviation: float) -> float:
    """Mean of the slowest of so many steps that take 1 +- deviation; all wait for it."""
    draws = np.random.default_rng(0).normal(1, deviation, (2000, gpus))
    return float(draws.max(axis=1).mean()) if gpus > 1 else 1.0


def _first_epoch_wait(batch: int, gpus: int, step: float, bandwidth: float) -> float:
    """Seconds that the first epoch takes longer because shards come from S3 in the order of need:
    every step waits for the shards of its samples, on every node."""
    rng = np.random.default_rng(0)
    shards = math.ceil(PACK_BYTES / SHARD_BYTES)
    on_node = min(gpus, GPUS_A_NODE) * batch
    shard_of_sample = rng.integers(0, shards, PERSONS // max(1, gpus // GPUS_A_NODE))
    _, first_use = np.unique(shard_of_sample, return_index=True)
    arrival = np.arange(1, len(first_use) + 1) * (SHARD_BYTES / bandwidth)
    due = np.sort(first_use) // on_node  # the step that needs it
    # Step i starts no earlier than the arrival of all that steps up to i need.
    return float(max(0.0, (arrival - due * step).max()))


def _count(experiment: Experiment) -> dict[str, Any]:
    model = build_model(experiment.model)
    sizes = [4 * p.numel() for p in model.parameters() if p.requires_grad]
    buckets, limit = [0], FIRST_BUCKET
    for size in reversed(sizes):  # gradients come from the last layer on
        if buckets[-1] >= limit:
            buckets.append(0)
            limit = BUCKET
        buckets[-1] += size
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    return {
        "gradient_bytes": sum(sizes),
        "buckets": buckets,
        "batch_norms": norms if experiment.sync_bn else 0,
        "kernels": _count_kernels(experiment, model),
    }


class _Kernels(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def _count_kernels(experiment: Experiment, model: nn.Module) -> int:
    """Operations, without views, of forward, losses and backward; the fused optimizer is few."""
    (width, height), (map_width, map_height) = (
        experiment.data_cfg.image_size,
        experiment.data_cfg.heatmap_size,
    )
    loss = build_loss(experiment.model.keypoint_head)
    with _Kernels() as kernels:
        outputs = model(torch.zeros(2, 3, height, width))
        targets, weights = torch.zeros(2, 17, map_height, map_width), torch.ones(2, 17)
        losses = loss(outputs, targets, weights, torch.arange(2))
        torch.stack(tuple(losses.values())).sum().backward()
    return kernels.count


if __name__ == "__main__":
    with user_errors():
        main()
