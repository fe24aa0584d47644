"""A model in use: persons of an image to their joints.

The crops, the flip test and the decoding are those of the evaluation (`sdpose.evaluation.infer`),
so that what is drawn is what was measured. N = persons, K joints.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sdpose.codec import decode
from sdpose.config import Experiment
from sdpose.config.schema import Skeleton
from sdpose.data.images import read_image, warp_crop
from sdpose.errors import UserError
from sdpose.evaluation.infer import box_regions, predict_heatmaps
from sdpose.evaluation.nms import rescore
from sdpose.geometry import crop_affine

BATCH = 32


class Runtime(Protocol):
    """What computes heatmaps: a module, an exported program, an ONNX session."""

    def predict(self, images_N3HW: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Poses:
    """Of one image, a row for each box, in the boxes' order."""

    keypoints: NDArray[np.float32]
    """[N,K,3]: x, y in image pixels (the first pixel's centre is 0, 0), and the joint's score, the
    height of its heatmap (about 0..1)."""
    scores: NDArray[np.float32]
    """[N]: the box's score x the mean of the joint scores above data_cfg.vis_thr; 0 if none is."""
    boxes: NDArray[np.float64]
    """[N,4]: x, y, width, height of what was looked at."""
    skeleton: Skeleton
    """What the K joints are."""


class PoseEstimator:
    """`estimator(image, boxes)`; made by `sdpose.load`."""

    def __init__(self, runtime: Runtime, experiment: Experiment, device: torch.device) -> None:
        self.runtime = runtime
        self.experiment = experiment
        self.device = device

    def __call__(
        self,
        image: str | Path | NDArray[np.uint8],
        boxes: ArrayLike | None = None,
        box_scores: ArrayLike | None = None,
    ) -> Poses:
        """The joints of every box.

        image: a file, or (H, W, 3) uint8 RGB. boxes: (N, 4) x, y, width, height in image pixels;
        None: the whole image is one person. box_scores: [N] of a detector, default 1.
        Raises UserError for boxes of another shape or without width or height, ImageError for a
        file that is no image.
        """
        pixels = image if isinstance(image, np.ndarray) else read_image(image)
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise UserError(
                f"the image is {pixels.dtype} {list(pixels.shape)}; expected uint8 (H, W, 3), RGB"
            )
        height, width = pixels.shape[:2]
        boxes_N4 = np.asarray([[0, 0, width, height]] if boxes is None else boxes, np.float64)
        boxes_N4 = boxes_N4.reshape(-1, 4) if boxes_N4.size == 0 else boxes_N4
        if boxes_N4.ndim != 2 or boxes_N4.shape[1] != 4 or not (boxes_N4[:, 2:] > 0).all():
            raise UserError(
                f"boxes must be (N, 4): x, y, width > 0, height > 0 in pixels; got "
                f"{list(boxes_N4.shape)}"
            )
        scores_N = np.ones(len(boxes_N4)) if box_scores is None else np.asarray(box_scores)
        return Poses(
            *self._estimate(pixels, boxes_N4, scores_N), boxes_N4, self.experiment.keypoints
        )

    def _estimate(
        self, pixels: NDArray[np.uint8], boxes_N4: NDArray[np.float64], box_scores_N: NDArray
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        cfg, test_cfg = self.experiment.data_cfg, self.experiment.model.test_cfg
        padding, skeleton = self.experiment.train_pipeline.padding, self.experiment.keypoints
        centers_N2, sizes_N2 = box_regions(boxes_N4, cfg, padding)
        found = [np.zeros((0, skeleton.num_keypoints, 3), np.float32)]
        runtime: Any = self.runtime
        for start in range(0, len(boxes_N4), BATCH):
            part = slice(start, start + BATCH)
            crops_NHW3 = np.stack(
                [
                    warp_crop(
                        pixels, crop_affine(center, size, 0.0, cfg.image_size), cfg.image_size
                    )
                    for center, size in zip(centers_N2[part], sizes_N2[part], strict=True)
                ]
            )
            with torch.inference_mode():
                crops = torch.from_numpy(crops_NHW3).to(self.device)
                heatmaps_NKHW = predict_heatmaps(runtime, crops, test_cfg, skeleton.flip_index)
                decoded_NK3 = decode(
                    heatmaps_NKHW,
                    centers_N2[part],
                    sizes_N2[part],
                    post_process=test_cfg.post_process,
                    kernel=test_cfg.modulate_kernel,
                )
            found.append(decoded_NK3.cpu().numpy())
        keypoints_NK3 = np.concatenate(found)
        return keypoints_NK3, rescore(keypoints_NK3[:, :, 2], box_scores_N, cfg.vis_thr)
