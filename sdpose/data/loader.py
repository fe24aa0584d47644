"""Training batches: the order of the samples, and their distribution over ranks and workers.

A sample's position and augmentation depend on (seed, epoch, sample index) only. Any number of
processes and workers, and a run resumed within an epoch, therefore see the same global batches.

A worker process loads whole batches and returns them in shared memory (/dev/shm; a batch of 64
takes 49 MiB from photos, about 14 MiB from a pack, and up to two wait per worker). Datasets hold
arrays only: reference counts of a list's objects would copy the parent's memory page by page.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from sdpose.config import Experiment
from sdpose.data.augment import draw_augmentation
from sdpose.data.coco import load_annotations
from sdpose.data.handover import start
from sdpose.data.pack import Pack
from sdpose.data.randomness import epoch_order
from sdpose.data.samples import (
    Batch,
    PackedSamples,
    PhotoSamples,
    Request,
    SampleSettings,
    TrainSamples,
    Unreadable,
)
from sdpose.data.worker import start_worker
from sdpose.errors import UserError


def build_train_loader(
    experiment: Experiment,
    *,
    rank: int = 0,
    world_size: int = 1,
    skip_images: frozenset[str] = frozenset(),
    pack: Pack | None = None,
) -> TrainLoader:
    """Build the loader of one training process.

    Args:
        skip_images: file names, as in the annotation file, of images to skip (those that
            `prepare_coco` found unreadable, if `data.on_corrupt` is skip).
        pack: made by `prepare_coco` from the other images; None: decode photos.
    Raises:
        UserError: the annotations are unusable or hold no person to train on.
    """
    settings = _sample_settings(experiment)
    samples: TrainSamples
    if pack is not None:
        samples = PackedSamples(pack, settings)
    else:
        root, split = Path(experiment.data_root), experiment.data.train
        annotations = load_annotations(root / split.ann_file, experiment.keypoints).without_images(
            skip_images
        )
        persons = annotations.persons()
        if not len(persons):
            raise UserError(
                f"{root / split.ann_file}: no person to train on: every annotation is a crowd, has "
                "no keypoints, no area, or is of an image that is left out"
            )
        file_names = np.array(annotations.file_names)
        samples = PhotoSamples(persons, file_names, root / split.img_prefix, settings)
    return TrainLoader(
        samples,
        batch_size=experiment.data.samples_per_gpu,
        batches_per_step=experiment.optimizer_config.cumulative_iters,
        num_workers=experiment.data.workers_per_gpu,
        rank=rank,
        world_size=world_size,
    )


def _sample_settings(experiment: Experiment) -> SampleSettings:
    sizes, pipeline = experiment.data_cfg, experiment.train_pipeline
    skeleton = experiment.keypoints
    return SampleSettings(
        image_size_wh=sizes.image_size,
        heatmap_size_wh=sizes.heatmap_size,
        sigma=sizes.sigma,
        padding=pipeline.padding,
        flip_index=np.array(skeleton.flip_index),
        augment=partial(
            draw_augmentation,
            is_upper_K=np.array(skeleton.is_upper),
            aspect_ratio=sizes.image_size[0] / sizes.image_size[1],
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


class TrainLoader:
    """Iterate over epochs of batches, as one of several ranks.

    Args:
        samples: loads a batch when indexed with (epoch, sample indices).
        batch_size: samples per batch of this rank.
        num_workers: worker processes; 0 loads in this process.
        rank, world_size: this training process, from 0, and the number of them.
        batches_per_step: batches of this rank per iteration (gradient accumulation).
    """

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
        self._samples = samples
        self._batch_size = batch_size
        self._batches_per_step = batches_per_step
        self._rank = rank
        self._world_size = world_size
        self._requests: list[Request] = []
        self._batches: DataLoader = DataLoader(
            samples,
            batch_size=None,  # a request is for a whole batch
            sampler=self._requests,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            worker_init_fn=start_worker,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # the default draws from torch's global generator
        )

    def __len__(self) -> int:
        """Iterations (optimiser steps) per epoch."""
        return math.ceil(self.num_samples / self.global_batch)

    @property
    def global_batch(self) -> int:
        """Samples per step, over all ranks."""
        return self._batch_size * self._batches_per_step * self._world_size

    def epoch(self, epoch: int, start_iteration: int = 0) -> Iterator[Batch]:
        """Yield this rank's batches of an epoch, `batches_per_step` for each iteration.

        Every sample comes once; the epoch's first samples fill up the last global batch. Only one
        epoch can be iterated at a time.

        Args:
            epoch: counted from 1.
            start_iteration: the first iteration to load, counted from 0.
        Raises:
            UserError: an image cannot be read, or a batch cannot be transferred from a worker.
        """
        order = epoch_order(self.num_samples, self._samples.settings.seed, epoch)
        shape = (len(self), self._batches_per_step, self._world_size, self._batch_size)
        rows = np.resize(order, shape)[start_iteration:, :, self._rank]
        del order  # 8 bytes per sample
        self._requests[:] = [(epoch, rows_N) for rows_N in rows.reshape(-1, self._batch_size)]
        batches = start(self._batches)  # forks the workers, before prefetching starts threads
        self._samples.prefetch(rows.reshape(-1))
        for batch in batches:
            if isinstance(batch, Unreadable):
                raise UserError(batch.reason)
            yield batch

    def close(self) -> None:
        """Stop the workers; the next `epoch` starts new ones."""
        self._samples.close()
        workers = self._batches._iterator
        if workers is not None:
            workers._shutdown_workers()  # type: ignore[attr-defined]
            self._batches._iterator = None
