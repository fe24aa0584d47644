"""Training samples, loaded a batch at a time: from photos, or from a pack.

Both draw the same crops and lead to the same tensors. `PhotoSamples` warps and normalises the
pixels and multiplies out the targets itself, on the CPU; for `PackedSamples`, `device.finish` does
this on the batch's device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from sdpose.codec import encode, target_factors
from sdpose.data.augment import Augmentation, joints_in_crop
from sdpose.data.coco import Persons
from sdpose.data.images import ImageError, normalize, read_image, warp_crop
from sdpose.data.pack import Pack
from sdpose.data.randomness import sample_keys
from sdpose.data.warp import invert_affines, source_regions
from sdpose.errors import UserError
from sdpose.geometry import box_to_center_size, crop_affine

Batch = dict[str, Tensor]
Request = tuple[int, NDArray[np.int64]]  # epoch and sample indices of one batch


@dataclass(frozen=True)
class Unreadable:
    """The result of a loader process that failed: an exception crosses processes only as text."""

    reason: str


@dataclass(frozen=True)
class SampleSettings:
    """How a person becomes a sample, see data_cfg and train_pipeline of the schema."""

    image_size_wh: tuple[int, int]  # of the crop, pixels
    heatmap_size_wh: tuple[int, int]  # pixels
    sigma: float  # of the targets, heatmap pixels
    padding: float  # crop region / box
    flip_index: NDArray[np.int64]  # [K], the joint that each one becomes in a mirrored crop
    augment: Callable[..., Augmentation]  # `draw_augmentation` with the experiment's factors
    seed: int


class _Crops(NamedTuple):
    matrices: NDArray[np.float64]  # [N,2,3], image to crop pixels
    joints: NDArray[np.float64]  # [N,K,2], crop pixels
    visible: NDArray[np.float64]  # [N,K]


class TrainSamples(Dataset):
    """The persons to train on; indexing with (epoch, sample indices) loads a batch.

    A batch is a function of the data, seed, epoch and indices. If a file cannot be read, the result
    is `Unreadable`.
    """

    def __init__(self, settings: SampleSettings) -> None:
        self.settings = settings

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, request: Request) -> Batch | Unreadable:
        epoch, rows_N = request
        keys_N = sample_keys(self.settings.seed, epoch, rows_N)
        try:
            persons = self._persons(rows_N)
            batch = self._load(persons, self._draw(persons, keys_N))
        except UserError as error:
            return Unreadable(str(error))
        batch["sample_keys_N"] = torch.from_numpy(keys_N.view(np.int64))
        batch["sample_ids_N"] = torch.from_numpy(persons.ann_id.copy())
        return batch

    def prefetch(self, rows_N: NDArray[np.int64]) -> None:
        """Start reading ahead the samples of an epoch, given in the order of their use."""

    def close(self) -> None:
        """Stop the prefetching."""

    def _persons(self, rows_N: NDArray[np.int64]) -> Persons:
        raise NotImplementedError

    def _load(self, persons: Persons, crops: _Crops) -> Batch:
        raise NotImplementedError

    def _draw(self, persons: Persons, keys_N: NDArray[np.uint64]) -> _Crops:
        settings = self.settings
        width, height = settings.image_size_wh
        joints_NK2, visible_NK = persons.joints, persons.visible
        centers_N2, sizes_N2 = box_to_center_size(
            persons.boxes_xywh, width / height, settings.padding
        )
        crops = _Crops(
            np.empty((len(keys_N), 2, 3)), np.empty(joints_NK2.shape), np.empty(visible_NK.shape)
        )
        for i, key in enumerate(keys_N.tolist()):
            rng = np.random.Generator(np.random.Philox(key=key))
            crop = settings.augment(rng, centers_N2[i], sizes_N2[i], joints_NK2[i], visible_NK[i])
            matrix = crop_affine(
                crop.center, crop.size, crop.rotation_deg, settings.image_size_wh, crop.flip
            )
            crops.matrices[i] = matrix
            crops.joints[i], crops.visible[i] = joints_in_crop(
                joints_NK2[i], visible_NK[i], matrix, settings.flip_index if crop.flip else None
            )
        return crops


class PhotoSamples(TrainSamples):
    """data.pipeline exact: decode the whole photo for every sample.

    A batch has images_N3HW float32, normalised RGB; targets_NKHW float32, 0..1; target_weights_NK
    float32, 0 or 1; sample_keys_N int64, see `sample_keys`; sample_ids_N int64, annotation ids.

    Args:
        file_names: [I] by `persons.image_index`, relative to `image_dir`.
    """

    def __init__(
        self,
        persons: Persons,
        file_names: NDArray[np.str_],
        image_dir: Path,
        settings: SampleSettings,
    ) -> None:
        super().__init__(settings)
        self.persons = persons
        self.file_names = file_names
        self.image_dir = image_dir

    def __len__(self) -> int:
        return len(self.persons)

    def _persons(self, rows_N: NDArray[np.int64]) -> Persons:
        return self.persons.take(rows_N)

    def _load(self, persons: Persons, crops: _Crops) -> Batch:
        settings = self.settings
        width, height = settings.image_size_wh
        # np.empty, not torch.empty: numpy requests huge pages. Page faults on 36 MiB of ordinary
        # pages cost as much as filling them.
        images_N3HW = np.empty((len(persons), 3, height, width), dtype=np.float32)
        for i, image in enumerate(persons.image_index):
            name = str(self.file_names[image])
            try:
                image_HW3 = read_image(self.image_dir / name)
            except ImageError as error:
                raise UserError(
                    f"{error}\nRestore the file, or leave such images out with "
                    "--set data.on_corrupt=skip after another prepare_coco."
                ) from None
            crop_HW3 = warp_crop(image_HW3, crops.matrices[i], settings.image_size_wh)
            normalize(crop_HW3, out=images_N3HW[i])
        targets_NKHW, weights_NK = encode(
            crops.joints,
            crops.visible,
            settings.image_size_wh,
            settings.heatmap_size_wh,
            settings.sigma,
        )
        return {
            "images_N3HW": torch.from_numpy(images_N3HW),
            "targets_NKHW": torch.from_numpy(targets_NKHW),
            "target_weights_NK": torch.from_numpy(weights_NK),
        }


class PackedSamples(TrainSamples):
    """data.pipeline fast: copy only the part of a photo that the crop reads.

    Instead of images and targets, a batch has the inputs from which `device.finish` computes them:
    pixels_B uint8, the concatenated regions; offsets_N, the first byte of each region; regions_N4
    (left, top, width, height in photo pixels); inverse_N23 float64, from crop to photo pixels;
    along_x_NKW and along_y_NKH, the factors of the targets (`codec.target_factors`).
    """

    def __init__(self, pack: Pack, settings: SampleSettings) -> None:
        super().__init__(settings)
        self.pack = pack

    def __len__(self) -> int:
        return len(self.pack)

    def _persons(self, rows_N: NDArray[np.int64]) -> Persons:
        return self.pack.read_persons(rows_N)

    def prefetch(self, rows_N: NDArray[np.int64]) -> None:
        self.pack.prefetch(rows_N)

    def close(self) -> None:
        self.pack.close()

    def _load(self, persons: Persons, crops: _Crops) -> Batch:
        settings = self.settings
        images_N = persons.image_index
        inverse_N23 = invert_affines(crops.matrices)
        image_rows_N = self.pack.images[images_N]
        image_sizes_N2 = np.stack([image_rows_N["width"], image_rows_N["height"]], axis=1)
        regions_N4 = source_regions(inverse_N23, settings.image_size_wh, image_sizes_N2)
        pixels_B, offsets_N = self.pack.read(images_N, regions_N4)
        along_x_NKW, along_y_NKH, weights_NK = target_factors(
            crops.joints,
            crops.visible,
            settings.image_size_wh,
            settings.heatmap_size_wh,
            settings.sigma,
        )
        arrays = {
            "pixels_B": pixels_B,
            "offsets_N": offsets_N,
            "regions_N4": regions_N4,
            "inverse_N23": inverse_N23,
            "along_x_NKW": along_x_NKW,
            "along_y_NKH": along_y_NKH,
            "target_weights_NK": weights_NK,
        }
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
