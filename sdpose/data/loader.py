"""Training batches: which sample comes when, and who loads it.

A sample's place in the order and its augmentation depend on (seed, epoch, sample index) alone, so
that any number of processes and workers, and a run resumed in the middle of an epoch, see the same
global batches.

A worker process loads whole batches and hands them over in shared memory (/dev/shm; a batch of 64
takes 49 MiB there, and up to two wait per worker). It holds arrays only, no lists of objects, whose
reference counts would copy the parent's memory page by page.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sdpose.codec import encode
from sdpose.config import Experiment
from sdpose.data.augment import Augmentation, draw_augmentation, joints_in_crop
from sdpose.data.coco import Persons, load_annotations
from sdpose.data.images import ImageError, normalize, read_image, warp_crop
from sdpose.errors import UserError
from sdpose.geometry import box_to_center_size, crop_affine

# images_N3HW float32, normalised RGB; targets_NKHW float32; target_weights_NK float32 (0 or 1);
# sample_keys_N int64, see `sample_keys`; sample_ids_N int64, annotation ids.
Batch = dict[str, Tensor]


def build_train_loader(
    experiment: Experiment,
    *,
    rank: int = 0,
    world_size: int = 1,
    skip_images: frozenset[str] = frozenset(),
) -> TrainLoader:
    """The loader of one of `world_size` training processes.

    `skip_images` are file names, as in the annotation file, of images to leave out (those that
    `prepare_coco` found unreadable, if `data.on_corrupt` is skip). Raises UserError if the
    annotations are unusable or hold no person to train on.
    """
    root, split = Path(experiment.data_root), experiment.data.train
    annotations = load_annotations(root / split.ann_file).without_images(skip_images)
    persons = annotations.persons()
    if not len(persons):
        raise UserError(
            f"{root / split.ann_file}: no person to train on: every annotation is a crowd, has no "
            "keypoints, no area, or is of an image that is left out"
        )
    sizes, pipeline = experiment.data_cfg, experiment.train_pipeline
    aspect_ratio = sizes.image_size[0] / sizes.image_size[1]
    centers_N2, sizes_N2 = box_to_center_size(persons.boxes_xywh, aspect_ratio, pipeline.padding)
    samples = TrainSamples(
        persons,
        centers_N2,
        sizes_N2,
        image_dir=root / split.img_prefix,
        file_names=np.array(annotations.file_names),
        image_size_wh=sizes.image_size,
        heatmap_size_wh=sizes.heatmap_size,
        sigma=sizes.sigma,
        augment=partial(
            draw_augmentation,
            aspect_ratio=aspect_ratio,
            shift_factor=pipeline.shift_factor,
            shift_prob=pipeline.shift_prob,
            flip_prob=pipeline.flip_prob,
            num_joints_half_body=pipeline.num_joints_half_body,
            prob_half_body=pipeline.prob_half_body,
            scale_factor=pipeline.scale_factor,
            rot_factor=pipeline.rot_factor,
            rot_prob=pipeline.rot_prob,
        ),
        seed=experiment.seed,
    )
    return TrainLoader(
        samples,
        batch_size=experiment.data.samples_per_gpu,
        batches_per_step=experiment.optimizer_config.cumulative_iters,
        num_workers=experiment.data.workers_per_gpu,
        rank=rank,
        world_size=world_size,
    )


class TrainLoader:
    """Iterates over epochs of batches; `close` ends its worker processes."""

    def __init__(
        self,
        samples: TrainSamples,
        *,
        batch_size: int,
        num_workers: int,
        rank: int,
        world_size: int,
        batches_per_step: int = 1,
    ) -> None:
        self.num_samples = len(samples)
        self._seed = samples.seed
        self._batch_size = batch_size
        self._batches_per_step = batches_per_step
        self._rank = rank
        self._world_size = world_size
        self._requests: list[_Request] = []
        self._batches: DataLoader = DataLoader(
            samples,
            batch_size=None,  # a request is for a whole batch
            sampler=self._requests,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            worker_init_fn=_start_worker,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # or it would draw from torch's global one
        )

    def __len__(self) -> int:
        """Iterations (steps) per epoch."""
        return math.ceil(self.num_samples / self.global_batch)

    @property
    def global_batch(self) -> int:
        """Samples that make one step."""
        return self._batch_size * self._batches_per_step * self._world_size

    def epoch(self, epoch: int, start_iteration: int = 0) -> Iterator[Batch]:
        """The batches of an epoch (counted from 1), from iteration `start_iteration` (from 0) on,
        `batches_per_step` for every iteration.

        Every sample comes once; the last global batch is completed with the epoch's first
        samples. Only one epoch can be under way. Raises UserError if an image cannot be read.
        """
        order = epoch_order(self.num_samples, self._seed, epoch)
        shape = (len(self), self._batches_per_step, self._world_size, self._batch_size)
        rows = np.resize(order, shape)[start_iteration:, :, self._rank]
        self._requests[:] = [(epoch, rows_N) for rows_N in rows.reshape(-1, self._batch_size)]
        for batch in self._batches:
            if isinstance(batch, _Unreadable):
                raise UserError(
                    f"{batch.reason}\nRestore the file, or leave such images out with "
                    "--set data.on_corrupt=skip after another prepare_coco."
                )
            yield batch

    def close(self) -> None:
        """Ends the workers; another `epoch` would start new ones."""
        workers = self._batches._iterator
        if workers is not None:
            workers._shutdown_workers()  # type: ignore[attr-defined]
            self._batches._iterator = None


_Request = tuple[int, NDArray[np.int64]]  # epoch and sample indices of one batch


@dataclass(frozen=True)
class _Unreadable:
    """A worker's answer instead of a batch. Exceptions reach the parent as a traceback's text."""

    reason: str


class TrainSamples(Dataset):
    """The persons to train on. Indexed by (epoch, sample indices), it loads a batch."""

    def __init__(
        self,
        persons: Persons,
        centers_N2: NDArray[np.float32],
        sizes_N2: NDArray[np.float32],
        *,
        image_dir: Path,
        file_names: NDArray[np.str_],
        image_size_wh: tuple[int, int],
        heatmap_size_wh: tuple[int, int],
        sigma: float,
        augment: Callable[..., Augmentation],
        seed: int,
    ) -> None:
        self.persons = persons
        self.centers_N2 = centers_N2
        self.sizes_N2 = sizes_N2
        self.image_dir = image_dir
        self.file_names = file_names
        self.image_size_wh = image_size_wh
        self.heatmap_size_wh = heatmap_size_wh
        self.sigma = sigma
        self.augment = augment
        self.seed = seed

    def __len__(self) -> int:
        return len(self.persons)

    def __getitem__(self, request: _Request) -> Batch | _Unreadable:
        epoch, rows_N = request
        keys_N = sample_keys(self.seed, epoch, rows_N)
        width, height = self.image_size_wh
        # np.empty, not torch.empty: numpy asks for huge pages, and touching 36 MiB of ordinary ones
        # costs as much as filling them.
        images_N3HW = np.empty((len(rows_N), 3, height, width), dtype=np.float32)
        joints_NK2 = np.empty((len(rows_N), *self.persons.joints.shape[1:]))
        visible_NK = np.empty(joints_NK2.shape[:2])
        for i, (row, key) in enumerate(zip(rows_N, keys_N, strict=True)):
            try:
                joints_NK2[i], visible_NK[i] = self._load_sample(row, key, images_N3HW[i])
            except ImageError as error:
                return _Unreadable(str(error))
        targets_NKHW, weights_NK = encode(
            joints_NK2, visible_NK, self.image_size_wh, self.heatmap_size_wh, self.sigma
        )
        return {
            "images_N3HW": torch.from_numpy(images_N3HW),
            "targets_NKHW": torch.from_numpy(targets_NKHW),
            "target_weights_NK": torch.from_numpy(weights_NK),
            "sample_keys_N": torch.from_numpy(keys_N.view(np.int64)),
            "sample_ids_N": torch.from_numpy(self.persons.ann_id[rows_N]),
        }

    def _load_sample(
        self, row: int, key: np.uint64, out_3HW: NDArray[np.float32]
    ) -> tuple[NDArray, NDArray]:
        """Writes the crop into `out_3HW`; returns its joints (crop pixels) and their visibility."""
        joints_K2, visible_K = self.persons.joints[row], self.persons.visible[row]
        rng = np.random.Generator(np.random.Philox(key=int(key)))
        crop = self.augment(rng, self.centers_N2[row], self.sizes_N2[row], joints_K2, visible_K)
        matrix = crop_affine(
            crop.center, crop.size, crop.rotation_deg, self.image_size_wh, crop.flip
        )
        file_name = str(self.file_names[self.persons.image_index[row]])
        image_HW3 = read_image(self.image_dir / file_name)
        normalize(warp_crop(image_HW3, matrix, self.image_size_wh), out=out_3HW)
        return joints_in_crop(joints_K2, visible_K, matrix, crop.flip)


def _start_worker(_: int) -> None:
    # Ctrl-C and torchrun signal the whole process group. A worker that died of it would take the
    # training process along before that has saved; it ends when the parent closes or is gone.
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)


# ------------------------------------------------------------------------------------ randomness


def epoch_order(num_samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The permutation of all samples in which an epoch (counted from 1) visits them."""
    key = sample_keys(seed, epoch, np.array([_ORDER_STREAM]))[0]
    return np.random.Generator(np.random.Philox(key=int(key))).permutation(num_samples)


_ORDER_STREAM = 2**32 - 1  # no sample has this index


def sample_keys(seed: int, epoch: int, rows_N: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A 64-bit random key for each sample of an epoch; all that is random in it derives from it.

    Epoch and index (below 2^32 each) are mixed by a bijection that the seed selects: within a run
    no two keys are equal.
    """
    start = _mix(np.array([seed], dtype=np.uint64))
    return _mix(start ^ (np.uint64(epoch << 32) | rows_N.astype(np.uint64)))


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 (Steele et al., Fast Splittable Pseudorandom Number Generators, 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
