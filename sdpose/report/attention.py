"""Figures of attention: where keypoint tokens look, and which tokens a masked distillation hides.

For the best, a middling and the worst predicted person of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from markupsafe import Markup
from numpy.typing import NDArray
from torch import Tensor

from sdpose.config import Experiment
from sdpose.config.schema import Skeleton
from sdpose.data.randomness import sample_keys
from sdpose.evaluation.infer import normalize_crops
from sdpose.losses import MaskedTokenDistilLoss, build_loss
from sdpose.models import SDPose, load_model
from sdpose.report.charts import picture
from sdpose.report.example_poses import crop, image
from sdpose.report.pose_figures import readable
from sdpose.report.run_files import RunFiles

MOST_JOINTS = 6  # that are shown
COCO_JOINTS = (0, 5, 9, 10, 13, 16)  # nose, left shoulder, wrists, left knee, right ankle
WIDTH = 132  # of a picture, in its own pixels
MIN_SIDE = 3  # of the grid of patches; coarser ones show nothing
MIN_PEAK = 1.5  # strongest patch over the mean; below, all patches have one colour
VISION, KEYPOINTS = 0, 1  # the streams of random masks, see losses.PoseLoss


@dataclass(frozen=True)
class Tile:
    svg: Markup
    caption: str


@dataclass(frozen=True)
class AttentionPanel:
    """One person: a row of tiles for each cycle, and what is masked."""

    title: str
    cycles: Sequence[tuple[str, Sequence[Tile]]]
    masks: Sequence[Tile]


@dataclass(frozen=True)
class Tokens:
    persons: Sequence[AttentionPanel]
    masking: str  # what the experiment masks, in words
    left_out: str  # which attention is not shown, and why; empty if all is


def attention_panels(files: RunFiles, persons: Sequence[tuple[int, str]]) -> Tokens:
    """Runs the run's model on the CPU, and draws its attention.

    Args:
        persons: index into the annotations, and a title.
    Raises:
        UserError: the checkpoint cannot be read.
        ImageError: an image cannot be read.
    """
    assert files.checkpoint is not None
    experiment = files.experiment
    model = load_model(experiment.model, files.checkpoint, experiment.keypoints)
    size_wh = experiment.data_cfg.image_size
    padding = experiment.train_pipeline.padding
    crops_NHW3 = np.stack([crop(files, p, size_wh, padding)[0] for p, _ in persons])
    with torch.inference_mode():
        outputs = model.eval()(normalize_crops(torch.from_numpy(crops_NHW3)), return_attention=True)
    size = WIDTH, round(WIDTH * size_wh[1] / size_wh[0])
    backgrounds = [_grey(c, size) for c in crops_NHW3]
    grid = _grid(experiment, model)
    skeleton = experiment.keypoints
    joints = _shown_joints(skeleton)
    uniform = [
        number
        for number, output in enumerate(outputs, start=1)
        if _peak(output.attention[:, :, joints, model.num_keypoints :]) < MIN_PEAK
    ]
    too_coarse = min(grid) < MIN_SIDE
    found = []
    for index, (person, title) in enumerate(persons):
        cycles = []
        for number, output in enumerate(outputs, start=1):
            if too_coarse or number in uniform:
                continue
            attention_TT = output.attention[index].mean(dim=0)  # over the heads
            to_patches_TV = attention_TT[:, model.num_keypoints :]
            tiles = [
                Tile(
                    _overlay(
                        size,
                        backgrounds[index],
                        _glow(to_patches_TV[joint].reshape(grid)),
                        f"Attention of the {readable(skeleton, joint)} token in cycle {number}",
                    ),
                    f"{readable(skeleton, joint)} ({100 * to_patches_TV[joint].sum():.0f} %)",
                )
                for joint in joints
            ]
            cycles.append((f"Cycle {number}", tiles))
        masks = _masks(files, outputs, index, person, grid, size, backgrounds[index])
        found.append(AttentionPanel(title, cycles, masks))
    left_out = ""
    if too_coarse:
        left_out = (
            f"Attention is left out: {grid[0]} x {grid[1]} patches are too coarse to show it."
        )
    elif uniform:
        left_out = (
            f"Attention of cycle {', '.join(map(str, uniform))} is left out: it is uniform (no "
            f"patch gets {MIN_PEAK} times the mean)."
        )
    return Tokens(found, _masking(experiment), left_out)


def _shown_joints(skeleton: Skeleton) -> list[int]:
    if skeleton.is_coco:
        return list(COCO_JOINTS)
    count = min(MOST_JOINTS, skeleton.num_keypoints)
    return [i * skeleton.num_keypoints // count for i in range(count)]


def _peak(attention_NhJV: Tensor) -> float:
    """Of all joints that are shown: the strongest patch over the mean of the patches."""
    patches_NJV = attention_NhJV.mean(dim=1)
    mean_NJ = patches_NJV.mean(dim=2).clamp(min=1e-12)
    return float((patches_NJV.amax(dim=2) / mean_NJ).max())


def _masks(
    files: RunFiles,
    outputs: Sequence[object],
    index: int,
    person: int,
    grid: tuple[int, int],
    size: tuple[int, int],
    background: Markup,
) -> list[Tile]:
    """For every pair of cycles, as the loss of the last epoch would mask this person."""
    experiment = files.experiment
    loss = build_loss(experiment.model.keypoint_head)
    keys = sample_keys(experiment.seed, experiment.total_epochs, np.array([person]))
    keys_N = torch.from_numpy(keys.view(np.int64))
    tiles = []
    for pair in range(len(outputs) - 1):
        teacher = outputs[pair + 1]
        where = f"cycle {pair + 1} → {pair + 2}"
        if isinstance(loss.vision_tokens, MaskedTokenDistilLoss):
            tokens = teacher.vision_tokens[index : index + 1]  # type: ignore[attr-defined]
            masked = loss.vision_tokens.masked(tokens, keys_N, 2 * pair + VISION)[0]
            text = f"{int(masked.sum())} of {len(masked)} vision tokens are masked, {where}"
            svg = _overlay(size, background, _shade(masked.reshape(grid)), text)
            tiles.append(Tile(svg, text))
        if isinstance(loss.keypoint_tokens, MaskedTokenDistilLoss):
            tokens = teacher.keypoint_tokens[index : index + 1]  # type: ignore[attr-defined]
            masked = loss.keypoint_tokens.masked(tokens, keys_N, 2 * pair + KEYPOINTS)[0]
            names = (
                ", ".join(readable(experiment.keypoints, int(k)) for k in masked.nonzero()[:, 0])
                or "none"
            )
            tiles.append(Tile(Markup(""), f"Keypoint tokens that are masked, {where}: {names}"))
    return tiles


def _masking(experiment: Experiment) -> str:
    head = experiment.model.keypoint_head
    texts = []
    for name, loss in (
        ("loss_vis_token_dist", head.loss_vis_token_dist),
        ("loss_kpt_token_dist", head.loss_kpt_token_dist),
    ):
        if loss is None:
            texts.append(f"{name} is off")
        elif loss.type == "MaskedTokenDistilLoss":
            texts.append(f"{name} masks {100 * (loss.mask_ratio or 0):g} % ({loss.mask_strategy})")
        else:
            texts.append(f"{name} is {loss.type}, which masks nothing")
    return "; ".join(texts) + "."


def _grid(experiment: Experiment, model: SDPose) -> tuple[int, int]:
    """Rows and columns of vision tokens."""
    (height, width), (p1, p2) = (
        experiment.model.keypoint_head.tokenpose_cfg.feature_size,
        (model.patch_size),
    )
    return height // p1, width // p2


def _overlay(
    size: tuple[int, int], background: Markup, overlay: NDArray[np.uint8], description: str
) -> Markup:
    return picture(*size, description, background, image(overlay, "tokens"))


def _grey(crop_HW3: NDArray[np.uint8], size_wh: tuple[int, int]) -> Markup:
    grey = cv2.cvtColor(cv2.resize(crop_HW3, size_wh), cv2.COLOR_RGB2GRAY)
    return image(np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), np.uint8))


def _glow(weights_hw: Tensor) -> NDArray[np.uint8]:
    """RGBA, one pixel a token: the stronger, the more opaque."""
    weights_hw = weights_hw / weights_hw.max().clamp(min=1e-12)
    rgba = np.full((*weights_hw.shape, 4), (255, 140, 0, 0), np.uint8)
    rgba[..., 3] = np.round(190 * weights_hw.numpy())
    return rgba


def _shade(masked_hw: Tensor) -> NDArray[np.uint8]:
    rgba = np.zeros((*masked_hw.shape, 4), np.uint8)
    rgba[..., 3] = np.where(masked_hw.numpy(), 215, 0)
    return rgba


def worst_middle_best(order: NDArray[np.intp]) -> list[tuple[int, str]]:
    """The best, the middle and the worst of a ranking (worst first), each with its title."""
    if not len(order):
        return []
    chosen = {int(order[-1]): "The best pose", int(order[len(order) // 2]): "A middling pose"}
    chosen[int(order[0])] = "The worst pose"
    return list(chosen.items())
