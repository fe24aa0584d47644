"""Post-processing of a whole COCO val2017 evaluation on CPU: decode, scores, NMS, AP.

    python benchmarks/postprocess.py [--detections 104125] [--naive 2000] [--json out.json]

104,125 is the number of boxes in COCO_val2017_detections_AP_H_56_person.json. Poses are made from
synthetic people: near copies, false alarms. Heatmaps for all boxes would take 20 GiB, so a pool of
batches is decoded over and over. Beside it, plain loops over samples and joints, as mmpose has
them, on a part of the boxes and scaled up; both must find the same.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from machine import machine
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from sdpose.codec import decode
from sdpose.config.schema import COCO
from sdpose.data.coco import CocoAnnotations
from sdpose.evaluation.coco_ap import average_precision, coco_results
from sdpose.evaluation.nms import rescore, rows_by_image, suppress

NUM_IMAGES = 5000
BOXES_PER_IMAGE = 104_125 / NUM_IMAGES
PEOPLE_PER_IMAGE = 2.2  # val2017: 10,777 annotated persons
BATCH = 32
POOL = 16  # batches of heatmaps
KERNEL = 11
VIS_THR, OKS_THR = 0.2, 0.9
SIGMAS = np.array(COCO.sigmas)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--detections", type=int, default=104_125)
    parser.add_argument("--naive", type=int, default=2000, help="boxes for the plain loops")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    rng = np.random.default_rng(0)
    num_images = max(1, round(args.detections / BOXES_PER_IMAGE))
    annotations = synthetic_annotations(rng, num_images)
    image_ids, keypoints, areas, box_scores = synthetic_poses(rng, annotations, args.detections)
    heatmaps = heatmap_pool(rng)
    centers = rng.uniform(50, 500, (BATCH, 2)).astype(np.float32)
    sizes = np.repeat(rng.uniform(40, 600, (BATCH, 1)), 2, axis=1).astype(np.float32)
    start_memory = peak_memory_mib()

    seconds: dict[str, float] = {}
    num_batches = -(-args.detections // BATCH)

    def decode_all() -> None:
        for batch in range(num_batches):
            decode(heatmaps[batch % POOL], centers, sizes, post_process="unbiased", kernel=KERNEL)

    seconds["decode"], _ = timed(decode_all)
    seconds["scores"], scores = timed(lambda: rescore(keypoints[..., 2], box_scores, VIS_THR))
    seconds["OKS-NMS"], kept = timed(
        lambda: suppress(
            image_ids, keypoints[..., :2], areas, scores, SIGMAS, thr=OKS_THR, soft=False
        )
    )

    def evaluate(backend: str) -> dict[str, float]:
        results = coco_results(image_ids[kept], keypoints[kept], scores[kept], 1)
        return average_precision(annotations, results, backend)

    seconds["AP (pycocotools)"], metrics = timed(lambda: evaluate("pycocotools"))
    total = sum(seconds.values())
    memory = peak_memory_mib()
    faster, fast_metrics = timed(lambda: evaluate("faster-coco-eval"))
    assert metrics == fast_metrics

    part = min(args.naive, args.detections)
    scale = args.detections / part
    naive_batches = -(-part // BATCH)
    naive: dict[str, float] = {}
    naive["decode"], plain = timed(
        lambda: [
            plain_decode(heatmaps[b % POOL].numpy(), centers, sizes) for b in range(naive_batches)
        ]
    )
    ours = decode(heatmaps[0], centers, sizes, post_process="unbiased", kernel=KERNEL).numpy()
    assert np.abs(plain[0] - ours).max() < 0.01, np.abs(plain[0] - ours).max()
    first = np.concatenate(rows_by_image(image_ids))[:part]
    naive["scores"], plain_scores = timed(
        lambda: plain_rescore(keypoints[first], box_scores[first])
    )
    assert np.allclose(plain_scores, scores[first], rtol=1e-6)
    naive["OKS-NMS"], plain_kept = timed(
        lambda: plain_suppress(image_ids[first], keypoints[first], areas[first], scores[first])
    )
    fast = suppress(
        image_ids[first],
        keypoints[first, :, :2],
        areas[first],
        scores[first],
        SIGMAS,
        thr=OKS_THR,
        soft=False,
    )
    assert plain_kept == fast.tolist()
    naive = {key: value * scale for key, value in naive.items()}
    naive["AP (pycocotools)"] = seconds["AP (pycocotools)"]

    report = {
        "detections": args.detections,
        "images": num_images,
        "kept": len(kept),
        "AP": metrics["AP"],
        "seconds": seconds | {"total": total},
        "seconds_AP_faster_coco_eval": faster,
        "seconds_plain_loops": naive | {"total": sum(naive.values())},
        "plain_loops_measured_on": part,
        "peak_memory_mib": memory,
        "of_which_before_mib": start_memory,
        "machine": machine(),
    }
    show(report)
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def show(report: dict[str, Any]) -> None:
    table = Table(title=f"{report['detections']:,} detections on {report['images']:,} images, CPU")
    for column in (
        "step",
        "seconds",
        f"plain loops (from {report['plain_loops_measured_on']:,})",
        "x",
    ):
        table.add_column(column, justify="left" if column == "step" else "right")
    for step, ours in report["seconds"].items():
        plain = report["seconds_plain_loops"][step]
        table.add_row(step, f"{ours:.1f}", f"{plain:.1f}", f"{plain / ours:.1f}")
    console = Console()
    console.print(table)
    console.print(
        f"AP by faster-coco-eval instead: {report['seconds_AP_faster_coco_eval']:.1f} s (equal). "
        f"Peak memory {report['peak_memory_mib']:.0f} MiB, "
        f"{report['of_which_before_mib']:.0f} MiB of it before the first step.\n{report['machine']}"
    )
    console.print_json(json.dumps(report))


# ------------------------------------------------------------------------------- synthetic input


def synthetic_annotations(rng: np.random.Generator, num_images: int) -> CocoAnnotations:
    """Bodies of uniformly drawn joints; sizes as various as COCO's."""
    count = round(num_images * PEOPLE_PER_IMAGE)
    height = np.exp(rng.uniform(np.log(30), np.log(450), count))
    corner = rng.uniform(0, 1, (count, 2)) * np.array([640, 480]) * 0.5
    size = np.stack([height * 0.45, height], axis=1)
    joints = corner[:, None] + rng.uniform(0, 1, (count, 17, 2)) * size[:, None]
    visible = np.full((count, 17, 1), 2.0)
    return CocoAnnotations(
        path=Path("synthetic"),
        skeleton=COCO,
        category_ids=(1,),
        image_ids=np.arange(num_images) + 1,
        file_names=tuple(f"{i}.jpg" for i in range(num_images)),
        image_sizes_wh=np.tile([640, 480], (num_images, 1)),
        image_licenses=np.full(num_images, -1),
        licenses={},
        person_category={"id": 1, "name": "person"},
        ann_ids=np.arange(count) + 1,
        ann_image_index=rng.integers(0, num_images, count),
        boxes_xywh=np.concatenate([corner, size], axis=1),
        areas=size.prod(axis=1) * 0.53,
        iscrowd=np.zeros(count, dtype=bool),
        num_keypoints=np.full(count, 17),
        keypoints=np.concatenate([joints, visible], axis=2),
    )


def synthetic_poses(
    rng: np.random.Generator, annotations: CocoAnnotations, count: int
) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Image ids, keypoints, areas and box scores: every second one near a person, others not."""
    person = rng.integers(0, len(annotations.ann_ids), count)
    height = annotations.boxes_xywh[person, 3]
    near = rng.random(count) < 0.5
    noise = np.where(near, rng.choice([0.01, 0.03], count), 0.5) * height
    points = (
        annotations.keypoints[person, :, :2]
        + rng.standard_normal((count, 17, 2)) * noise[:, None, None]
    )
    joint_scores = rng.random((count, 17, 1)) * np.where(near, 0.95, 0.4)[:, None, None]
    keypoints = np.concatenate([points, joint_scores], axis=2).astype(np.float32)
    image_ids = annotations.image_ids[annotations.ann_image_index[person]]
    areas = ((height * 1.25) ** 2 * 0.75).astype(np.float32)
    return image_ids, keypoints, areas, rng.random(count)


def heatmap_pool(rng: np.random.Generator) -> list[torch.Tensor]:
    """Batches (32, 17, 64, 48): a Gaussian each, with noise."""
    x, y = np.arange(48), np.arange(64)
    pool = []
    for _ in range(POOL):
        mean = rng.uniform([3, 3], [45, 61], (BATCH, 17, 2))
        gauss_x = np.exp(-((x - mean[..., :1]) ** 2) / 8)
        gauss_y = np.exp(-((y - mean[..., 1:]) ** 2) / 8)
        maps = gauss_y[..., :, None] * gauss_x[..., None, :] + rng.normal(
            0, 0.005, (BATCH, 17, 64, 48)
        )
        pool.append(torch.from_numpy(maps.astype(np.float32)))
    return pool


# ------------------------------------------------------------------------------------ plain loops


def plain_decode(heatmaps: NDArray, centers: NDArray, sizes: NDArray) -> NDArray:
    """DARK, one joint at a time."""
    count, joints, height, width = heatmaps.shape
    found = np.zeros((count, joints, 3), dtype=np.float32)
    border = (KERNEL - 1) // 2
    for n in range(count):
        for k in range(joints):
            flat = int(np.argmax(heatmaps[n, k]))
            x, y = flat % width, flat // width
            peak = heatmaps[n, k, y, x]
            padded = np.zeros((height + 2 * border, width + 2 * border), dtype=np.float32)
            padded[border:-border, border:-border] = heatmaps[n, k]
            blurred = cv2.GaussianBlur(padded, (KERNEL, KERNEL), 0)[border:-border, border:-border]
            log = np.log(np.maximum(blurred * (peak / blurred.max()), 1e-10))
            point = np.array([x, y], dtype=np.float64)
            if 1 < x < width - 2 and 1 < y < height - 2:
                gradient = 0.5 * np.array(
                    [[log[y, x + 1] - log[y, x - 1]], [log[y + 1, x] - log[y - 1, x]]]
                )
                dxx = 0.25 * (log[y, x + 2] - 2 * log[y, x] + log[y, x - 2])
                dyy = 0.25 * (log[y + 2, x] - 2 * log[y, x] + log[y - 2, x])
                dxy = 0.25 * (
                    log[y + 1, x + 1] - log[y - 1, x + 1] - log[y + 1, x - 1] + log[y - 1, x - 1]
                )
                hessian = np.array([[dxx, dxy], [dxy, dyy]])
                if dxx * dyy - dxy**2 != 0:
                    point -= (np.linalg.inv(hessian) @ gradient)[:, 0]
            scale = sizes[n] / np.array([width, height])
            found[n, k, :2] = point * scale + centers[n] - 0.5 * sizes[n]
            found[n, k, 2] = peak
    return found


def plain_rescore(keypoints: NDArray, box_scores: NDArray) -> list[float]:
    scores = []
    for pose, box_score in zip(keypoints, box_scores, strict=True):
        above = [float(s) for s in pose[:, 2] if s > VIS_THR]
        scores.append(box_score * sum(above) / len(above) if above else 0.0)
    return scores


def plain_suppress(
    image_ids: NDArray, keypoints: NDArray, areas: NDArray, scores: NDArray
) -> list[int]:
    variances = (SIGMAS * 2) ** 2
    by_image: dict[int, list[int]] = {}
    for row, image_id in enumerate(image_ids.tolist()):
        by_image.setdefault(image_id, []).append(row)
    kept = []
    for rows in by_image.values():
        left = sorted(rows, key=lambda row: -scores[row])
        while left:
            best = left.pop(0)
            kept.append(best)
            others = []
            for row in left:
                delta = keypoints[row, :, :2] - keypoints[best, :, :2]
                area = (areas[best] + areas[row]) / 2 + np.spacing(1)
                oks = np.exp(-(delta**2).sum(axis=1) / variances / area / 2).mean()
                if oks <= OKS_THR:
                    others.append(row)
            left = others
    return kept


# ---------------------------------------------------------------------------------------- machine


def peak_memory_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
