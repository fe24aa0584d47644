"""Move batches to the device, and turn raw pixels into the step's tensors there.

N samples, K joints, H x W pixels of a crop or a heatmap.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from functools import cache

import cv2
import numpy as np
import torch
from torch import Tensor

from sdpose.data.images import NORMALIZED, normalize
from sdpose.data.samples import Batch
from sdpose.data.warp import warp_regions

# Only the host reads it, when training diverges.
_ON_HOST = "sample_ids_N"
# How far the host may run ahead of the GPU: a batch takes 0.8 MB of its memory per sample.
_BATCHES_AHEAD = 3


def on_device(
    batches: Iterable[Batch],
    device: torch.device,
    image_size_wh: tuple[int, int],
    layout: torch.memory_format = torch.contiguous_format,
) -> Iterator[Batch]:
    """Yield the loader's batches on the device, as `finish` returns them.

    A GPU copies and warps on a separate stream: the next batch is prepared while the current one is
    computed, and only the step that uses a batch waits for it.

    `image_size_wh` is the size of the crops, `layout` the memory format of the images.
    """
    if device.type != "cuda":
        for batch in batches:
            moved = {name: tensor.to(device) for name, tensor in batch.items()}
            yield _laid_out(finish(moved, image_size_wh), layout)
        return
    copying = torch.cuda.Stream(device)
    taken: deque[torch.cuda.Event] = deque()
    for batch in batches:
        if len(taken) == _BATCHES_AHEAD:
            taken.popleft().synchronize()
        with torch.cuda.stream(copying):
            moved = {
                name: tensor if name == _ON_HOST else tensor.to(device, non_blocking=True)
                for name, tensor in batch.items()
            }
            finished = _laid_out(finish(moved, image_size_wh), layout)
        computing = torch.cuda.current_stream(device)
        computing.wait_stream(copying)
        for name, tensor in finished.items():
            if name != _ON_HOST:
                tensor.record_stream(computing)  # keeps its memory until the step is done
        yield finished
        taken.append(computing.record_event())


def _laid_out(batch: Batch, layout: torch.memory_format) -> Batch:
    return batch | {"images_N3HW": batch["images_N3HW"].to(memory_format=layout)}


def finish(batch: Batch, image_size_wh: tuple[int, int]) -> Batch:
    """Convert a batch of `PackedSamples` to the tensors of `PhotoSamples`, on its own device.

    A batch of `PhotoSamples` is returned unchanged. Nothing synchronises with the device.
    """
    if "pixels_B" not in batch:
        return batch
    raw = dict(batch)
    pixels_B, offsets_N, regions_N4, inverse_N23, along_x_NKW, along_y_NKH = map(
        raw.pop,
        ("pixels_B", "offsets_N", "regions_N4", "inverse_N23", "along_x_NKW", "along_y_NKH"),
    )
    crop = _crops_on_cpu if pixels_B.device.type == "cpu" else crops_on_device
    return {
        "images_N3HW": crop(pixels_B, offsets_N, regions_N4, inverse_N23, image_size_wh),
        "targets_NKHW": along_y_NKH[..., :, None] * along_x_NKW[..., None, :],
        **raw,
    }


def crops_on_device(
    pixels_B: Tensor,
    offsets_N: Tensor,
    regions_N4: Tensor,
    inverse_N23: Tensor,
    image_size_wh: tuple[int, int],
) -> Tensor:
    """Compute normalised crops [N, 3, H, W] float32 with torch; arguments as in `warp_regions`."""
    crops_N3HW = warp_regions(pixels_B, offsets_N, regions_N4, inverse_N23, image_size_wh)
    table = _normalization_table(pixels_B.device)
    return torch.stack(
        [table[channel][crops_N3HW[:, channel].int()] for channel in range(3)], dim=1
    )


@cache
def _normalization_table(device: torch.device) -> Tensor:
    return torch.from_numpy(NORMALIZED).to(device)


def _crops_on_cpu(
    pixels_B: Tensor,
    offsets_N: Tensor,
    regions_N4: Tensor,
    inverse_N23: Tensor,
    image_size_wh: tuple[int, int],
) -> Tensor:
    """The same with OpenCV, whose warp takes 1/40 of the time of torch's on a CPU.

    Moving the origin to the region's corner rounds the matrix: about ten pixels per batch differ.
    """
    width, height = image_size_wh
    images_N3HW = np.empty((len(offsets_N), 3, height, width), dtype=np.float32)
    pixels = pixels_B.numpy()
    for n, (offset, (left, top, columns, rows)) in enumerate(
        zip(offsets_N.tolist(), regions_N4.tolist(), strict=True)
    ):
        region_HW3 = pixels[offset : offset + 3 * rows * columns].reshape(rows, columns, 3)
        inverse = inverse_N23[n].numpy().copy()
        inverse[:, 2] -= (left, top)
        crop_HW3 = cv2.warpAffine(
            region_HW3, inverse, image_size_wh, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        )
        normalize(crop_HW3, out=images_N3HW[n])
    return torch.from_numpy(images_N3HW)
