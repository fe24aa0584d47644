"""The last part of a batch's way: onto the device, and there from raw pixels to tensors.

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

# Read by the host alone, when training diverges.
_ON_HOST = "sample_ids_N"
# So far the host may run ahead of the GPU: every batch is 0.8 MB a sample of its memory.
_BATCHES_AHEAD = 3


def on_device(
    batches: Iterable[Batch],
    device: torch.device,
    image_size_wh: tuple[int, int],
    layout: torch.memory_format = torch.contiguous_format,
) -> Iterator[Batch]:
    """The loader's batches on the device, as `finish` makes them; images in this memory format.

    On a GPU all of it happens on a stream of its own: the host, which runs ahead of the GPU, hands
    over the next batch while this one is computed, and only the step that needs it waits for it.
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
                tensor.record_stream(computing)  # its memory is not reused before the step is done
        yield finished
        taken.append(computing.record_event())


def _laid_out(batch: Batch, layout: torch.memory_format) -> Batch:
    return batch | {"images_N3HW": batch["images_N3HW"].to(memory_format=layout)}


def finish(batch: Batch, image_size_wh: tuple[int, int]) -> Batch:
    """What the step takes: a batch of `PhotoSamples` as it is, one of `PackedSamples` made equal to
    it, on the device where it lies. Nothing waits for the device."""
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
    """Normalised crops (N, 3, H, W) float32, by torch alone; arguments as `warp_regions`."""
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
    """The same by OpenCV, whose warp takes a 40th of the time that torch's takes on a CPU.

    Moving the origin to the region's corner rounds the matrix: some ten pixels of a batch differ.
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
