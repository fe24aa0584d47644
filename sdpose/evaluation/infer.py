"""Predict keypoints for boxes: crops, the model, flip test and decoding.

N = boxes, K joints, H x W crop or heatmap pixels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from sdpose.codec import flip_back
from sdpose.config.schema import DataCfg, Skeleton, TestCfg
from sdpose.data.coco import Boxes
from sdpose.data.handover import start
from sdpose.data.images import MEAN, STD, ImageError, read_image, warp_crop
from sdpose.data.worker import start_worker
from sdpose.errors import UserError
from sdpose.evaluation.decoder import Decoder
from sdpose.evaluation.nms import rows_by_image
from sdpose.geometry import box_to_center_size, crop_affine

Array = NDArray[np.float32]


def box_regions(
    boxes_xywh: NDArray[np.float64], data_cfg: DataCfg, padding: float
) -> tuple[Array, Array]:
    """Compute crop regions: `geometry.box_to_center_size` at the aspect ratio of `image_size`."""
    width, height = data_cfg.image_size
    return box_to_center_size(boxes_xywh, aspect_ratio=width / height, padding=padding)


def predict_heatmaps(
    model: nn.Module, crops_NHW3: Tensor, test_cfg: TestCfg, flip_index: Sequence[int]
) -> Tensor:
    """Predict the heatmaps [N, K, h, w] float32 of crops.

    With the flip test they are the mean of both views, which the model gets as one batch of 2N.
    `crops_NHW3` is uint8 RGB; `flip_index` is the skeleton's.
    """
    images_N3HW = normalize_crops(crops_NHW3)
    if not test_cfg.flip_test:
        return model.predict(images_N3HW)  # type: ignore[operator]
    both_views = torch.cat([images_N3HW, images_N3HW.flip(-1)])
    heatmaps_NKHW, mirrored_NKHW = model.predict(both_views).chunk(2)  # type: ignore[operator]
    return (heatmaps_NKHW + flip_back(mirrored_NKHW, flip_index, test_cfg.shift_heatmap)) * 0.5


def normalize_crops(crops_NHW3: Tensor) -> Tensor:
    """Compute (value / 255 - mean) / std as [N, 3, H, W], in float32 as torchvision does."""
    mean = torch.tensor(MEAN, device=crops_NHW3.device)
    std = torch.tensor(STD, device=crops_NHW3.device)
    normalized = (crops_NHW3.float() / 255 - mean) / std
    return normalized.permute(0, 3, 1, 2).contiguous()


def predict_keypoints(
    model: nn.Module,
    boxes: Boxes,
    image_paths: list[Path],
    *,
    skeleton: Skeleton,
    data_cfg: DataCfg,
    test_cfg: TestCfg,
    padding: float,
    batch_size: int,
    num_workers: int,
    device: torch.device,
    share: tuple[int, int] = (0, 1),
    progress: Callable[[int, int], None] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Predict the keypoints of this process's share of the boxes.

    Batches hold the same boxes for any number of processes, so that results do not depend on it.
    Each process decodes an image once.

    Args:
        model: on `device`.
        boxes: all boxes, of all processes.
        image_paths: by `boxes.image_index`.
        skeleton: the model's.
        padding: crop region / box.
        batch_size: boxes per batch.
        num_workers: processes that decode images; 0: this one does.
        share: (rank, number of processes).
        progress: called with (boxes done, boxes in this share).
    Returns:
        The rows [n] of `boxes` in this share, and keypoints [n, K, 3] float32: x, y in image
        pixels, score.
    Raises:
        UserError: an image cannot be read, or the model predicts NaN or infinite values.
    """
    order = np.concatenate([np.zeros(0, dtype=np.int64), *rows_by_image(boxes.image_id)])
    rows = share_of(order, batch_size, *share)
    centers_N2, sizes_N2 = box_regions(boxes.boxes_xywh[rows], data_cfg, padding)
    crops = ImageCrops(
        [
            (image_paths[boxes.image_index[rows[part[0]]]], centers_N2[part], sizes_N2[part])
            for part in rows_by_image(boxes.image_id[rows])
        ],
        data_cfg.image_size,
    )
    keypoints_NK3 = np.zeros((len(rows), skeleton.num_keypoints, 3), np.float32)
    done = 0
    with _inference(model), Decoder(test_cfg, keypoints_NK3, centers_N2, sizes_N2) as decoder:
        for batch_NHW3 in crop_batches(crops, batch_size, num_workers):
            part = slice(done, done + len(batch_NHW3))
            if device.type == "cuda":  # without pinning, the copy waits for the previous batch
                batch_NHW3 = batch_NHW3.pin_memory().to(device, non_blocking=True)
            decoder.submit(predict_heatmaps(model, batch_NHW3, test_cfg, skeleton.flip_index), part)
            done = part.stop
            if progress:
                progress(done, len(rows))
    if not np.isfinite(keypoints_NK3).all():
        bad = int((~np.isfinite(keypoints_NK3)).any(axis=(1, 2)).sum())
        raise UserError(
            f"the model predicts NaN or infinite values for {bad} of {len(rows)} boxes: its "
            "training diverged, or the checkpoint is damaged"
        )
    return rows, keypoints_NK3


def share_of(order: NDArray[np.int64], batch_size: int, rank: int, world_size: int) -> NDArray:
    """Return this process's part of `order`: contiguous, in whole batches."""
    num_batches = -(-len(order) // batch_size)
    start, stop = (num_batches * r // world_size * batch_size for r in (rank, rank + 1))
    return order[start:stop]


class ImageCrops(Dataset[Any]):
    """One item per image: all its crops, uint8 [n, H, W, 3], or an error message."""

    def __init__(self, images: list[tuple[Path, Array, Array]], size_wh: tuple[int, int]) -> None:
        self.images = images  # path, centres and sizes of its crops
        self.size_wh = size_wh

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor | str:
        path, centers_N2, sizes_N2 = self.images[index]
        try:
            image = read_image(path)
        except ImageError as error:
            return str(error)
        crops_NHW3 = [
            warp_crop(image, crop_affine(center, size, 0.0, self.size_wh), self.size_wh)
            for center, size in zip(centers_N2, sizes_N2, strict=True)
        ]
        return torch.from_numpy(np.stack(crops_NHW3))


def crop_batches(crops: ImageCrops, batch_size: int, num_workers: int) -> Iterator[Tensor]:
    """Yield all crops in order, in batches [batch_size, H, W, 3]; the last one may be smaller.

    Raises:
        UserError: an image cannot be read.
    """
    loader = DataLoader(
        crops,
        batch_size=None,  # an item is an image; its crops are batched below
        num_workers=num_workers,
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # the default draws from torch's global generator
    )
    waiting: list[Tensor] = []
    for item in start(loader):
        if isinstance(item, str):
            raise UserError(
                f"{item}\n  `sdpose prepare` lists all unreadable images; with "
                "data.on_corrupt=skip they are left out"
            )
        waiting.append(item)
        while sum(map(len, waiting)) >= batch_size:
            together = torch.cat(waiting)
            yield together[:batch_size]
            waiting = [together[batch_size:]]
    rest = torch.cat(waiting) if waiting else torch.empty(0)
    if len(rest):
        yield rest


@contextlib.contextmanager
def _inference(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients and without TF32 (10 bits of mantissa)."""
    was_training = model.training
    tf32 = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = tf32
