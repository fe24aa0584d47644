"""Joints in another order: the same samples, poses and AP, in that order and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from other_skeletons import write_dataset_of
from tiny_runs import MakeExperiment

from sdpose.codec import flip_back
from sdpose.config.schema import COCO, PRESET_NAMES, Skeleton, preset
from sdpose.data.augment import joints_in_crop
from sdpose.data.loader import build_train_loader
from sdpose.evaluation import evaluate
from sdpose.evaluation.nms import oks_matrix
from sdpose.models import build_model

ORDER = (3, 16, 0, 7, 1, 12, 9, 4, 15, 2, 10, 5, 13, 8, 14, 6, 11)
PERMUTED = COCO.subset([COCO.keypoints[joint] for joint in ORDER])


@pytest.fixture
def changes(dataset: Path, tmp_path: Path) -> tuple[str, str]:
    write_dataset_of(PERMUTED, dataset, tmp_path / "permuted")
    return f"data_root={tmp_path / 'permuted'}", f"skeleton={PERMUTED.model_dump_json()}"


@pytest.mark.parametrize("half_body", [0, 0.9])
def test_training_samples(make: MakeExperiment, changes: tuple[str, str], half_body: float) -> None:
    """Half of them are mirrored."""
    half = (f"train_pipeline.prob_half_body={half_body}", "train_pipeline.num_joints_half_body=5")
    batches = list(build_train_loader(make(*half)).epoch(1))
    permuted = list(build_train_loader(make(*half, *changes)).epoch(1))
    # The centre of half a body is a sum over its joints in their order.
    bound = 1e-3 if half_body else 0
    assert len(batches) == len(permuted) > 5
    for ours, theirs in zip(batches, permuted, strict=True):
        moved = (ours["images_N3HW"] - theirs["images_N3HW"]).abs().mean()
        assert moved <= bound  # OpenCV rounds positions: a few pixels are of another grey
        for name in ("targets_NKHW", "target_weights_NK"):
            torch.testing.assert_close(ours[name][:, ORDER], theirs[name], rtol=0, atol=bound)


def test_evaluation(make: MakeExperiment, changes: tuple[str, str]) -> None:
    experiment, other = make(), make(*changes)
    torch.manual_seed(0)
    model = build_model(experiment.model).eval()
    theirs = build_model(other.model, 17).eval()
    state = model.state_dict()
    theirs.load_state_dict(state | {"keypoint_tokens": state["keypoint_tokens"][:, ORDER]})
    first = evaluate(model, experiment, device="cpu")
    second = evaluate(theirs, other, device="cpu")
    assert len(first.keypoints_array) > 5
    # Sums over the joints are in another order: the last bits differ.
    np.testing.assert_allclose(
        first.keypoints_array[:, ORDER], second.keypoints_array, rtol=1e-4, atol=1e-3
    )
    np.testing.assert_allclose(first.scores, second.scores, rtol=1e-5)
    assert 0 <= second.metrics.pop("PCK") <= 1  # of every skeleton but COCO's
    assert second.metrics == pytest.approx(first.metrics, abs=1e-9)
    assert "keypoints" not in first.settings
    assert second.settings["keypoints"] == list(PERMUTED.keypoints)


@given(order=st.permutations(range(17)), seed=st.integers(0, 1000))
@settings(max_examples=30)
def test_similarity_of_poses(order: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    poses, areas = rng.uniform(0, 100, (4, 17, 2)), rng.uniform(100, 4000, 4)
    sigmas = np.array(COCO.sigmas)
    np.testing.assert_allclose(
        oks_matrix(poses, areas, sigmas),
        oks_matrix(poses[:, order], areas, sigmas[order]),
        rtol=1e-5,
    )


@st.composite
def skeletons(draw: st.DrawFn) -> Skeleton:
    """Of any number of joints, some of them in pairs."""
    count = draw(st.integers(1, 40))
    names = draw(st.permutations([f"joint{i}" for i in range(count)]))
    pairs = draw(st.integers(0, count // 2))
    return Skeleton(
        keypoints=tuple(f"joint{i}" for i in range(count)),
        flip_pairs=tuple(zip(names[:pairs], names[pairs : 2 * pairs], strict=True)),
        sigmas=(0.05,) * count,
    )


@given(skeleton=skeletons() | st.sampled_from([preset(name) for name in PRESET_NAMES]))
@settings(max_examples=60, deadline=None)
def test_mirrored_twice_is_the_identity(skeleton: Skeleton) -> None:
    count, flip = skeleton.num_keypoints, np.array(skeleton.flip_index)
    assert flip[flip].tolist() == list(range(count))
    heatmaps = torch.rand(2, count, 8, 6, generator=torch.Generator().manual_seed(0))
    once = flip_back(heatmaps, skeleton.flip_index, False)
    assert torch.equal(flip_back(once, skeleton.flip_index, False), heatmaps)
    joints = np.random.default_rng(0).uniform(0, 50, (count, 2))
    visible = np.arange(count) % 2
    mirror = np.array([[-1.0, 0, 49], [0, 1, 0]])
    back, seen = joints_in_crop(*joints_in_crop(joints, visible, mirror, flip), mirror, flip)
    np.testing.assert_allclose(back, joints, atol=1e-9)
    assert seen.tolist() == visible.tolist()
