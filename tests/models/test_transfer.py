"""`load_from` across skeletons: equal keypoints keep their tokens, and every other one is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sdpose.config import Experiment, dump_experiment, parse_experiment
from sdpose.config.schema import COCO, Skeleton
from sdpose.errors import UserError
from sdpose.models import SDPose, build_model, load_model
from sdpose.models.names import to_official
from sdpose.models.transfer import transfer_weights
from sdpose.training.resume import Start, check_fits

# CrowdPose's names for COCO's limbs, in another order, and two of its own.
CROWD = Skeleton(
    keypoints=("top_head", "neck", *COCO.keypoints[:4:-1]),
    sigmas=(0.079,) * 14,
)
ANIMAL = Skeleton(keypoints=("nose", *(f"paw{i}" for i in range(16))), sigmas=(0.05,) * 17)


def experiment(skeleton: Skeleton, positions: str = "sine-full") -> Experiment:
    head = {"depth": 2, "dim": 48, "heads": 2, "pos_embedding_type": positions}
    return parse_experiment(
        {
            "exp_name": "transfer",
            "skeleton": skeleton.model_dump(),
            "data_cfg": {"image_size": [48, 64], "heatmap_size": [12, 16]},
            "model": {"keypoint_head": {"tokenpose_cfg": head}},
        }
    )


def model_of(experiment: Experiment, seed: int) -> SDPose:
    torch.manual_seed(seed)
    return build_model(experiment.model, experiment.keypoints.num_keypoints)


def written(
    folder: Path, experiment: Experiment, model: SDPose, *, says_skeleton: bool = True
) -> Path:
    path = folder / "theirs.pth"
    meta = {"experiment": dump_experiment(experiment)} if says_skeleton else {}
    torch.save({"state_dict": model.state_dict(), "meta": meta}, path)
    return path


def tokens(model: SDPose, skeleton: Skeleton) -> dict[str, Tensor]:
    rows = model.keypoint_tokens.detach()[0]
    return dict(zip(skeleton.keypoints, rows, strict=True))


@pytest.mark.parametrize("positions", ["sine-full", "learnable"])
@pytest.mark.parametrize("says_skeleton", [True, False])
def test_coco_to_crowdpose(tmp_path: Path, positions: str, says_skeleton: bool) -> None:
    """Files that do not say whose 17 tokens they hold, as the official ones, are COCO's."""
    theirs, ours = experiment(COCO, positions), experiment(CROWD, positions)
    source = model_of(theirs, 0)
    path = written(tmp_path, theirs, source, says_skeleton=says_skeleton)
    model, untouched = model_of(ours, 1), model_of(ours, 1)
    report = transfer_weights(model, path, CROWD)

    found, before, after = tokens(source, COCO), tokens(untouched, CROWD), tokens(model, CROWD)
    for name in CROWD.keypoints:
        expected = found[name] if name in COCO.keypoints else before[name]
        assert torch.equal(after[name], expected), name
    for name, tensor in model.state_dict().items():
        if name not in {"keypoint_tokens", "position_embedding"}:
            assert torch.equal(tensor, source.state_dict()[name]), name
    if positions == "learnable":
        row = CROWD.keypoints.index("left_hip")
        theirs_row = COCO.keypoints.index("left_hip")
        embedding, given = model.position_embedding[0], source.position_embedding[0]
        assert torch.equal(embedding[row], given[theirs_row])
        assert torch.equal(embedding[14:], given[17:])
    text = report.summary()
    assert "copied: 12 (right_ankle, left_ankle," in text
    assert "initialised: 2 (top_head, neck)" in text
    assert "dropped: 5 (nose, left_eye, right_eye, left_ear, right_ear)" in text


def test_official_names_transfer_too(tmp_path: Path) -> None:
    source = model_of(experiment(COCO), 0)
    path = tmp_path / "official.pth"
    torch.save({"state_dict": to_official(source.state_dict())}, path)
    model = model_of(experiment(CROWD), 1)
    transfer_weights(model, path, CROWD)
    hip = tokens(model, CROWD)["left_hip"]
    assert torch.equal(hip, tokens(source, COCO)["left_hip"])


def test_as_many_keypoints_are_not_taken_for_the_same(tmp_path: Path) -> None:
    """17 of an animal: only the nose is COCO's."""
    source = model_of(experiment(COCO), 0)
    path = written(tmp_path, experiment(COCO), source)
    model, untouched = (model_of(experiment(ANIMAL), 1) for _ in range(2))
    report = transfer_weights(model, path, ANIMAL)
    assert torch.equal(tokens(model, ANIMAL)["nose"], tokens(source, COCO)["nose"])
    assert torch.equal(tokens(model, ANIMAL)["paw3"], tokens(untouched, ANIMAL)["paw3"])
    assert "copied: 1 (nose)" in report.summary()


def test_other_spellings_are_the_same_keypoints(tmp_path: Path) -> None:
    source = model_of(experiment(COCO), 0)
    path = written(tmp_path, experiment(COCO), source)
    ours = Skeleton(keypoints=("L_Hip", "Nose", "tail"), flip_pairs=(), sigmas=(0.1,) * 3)
    model = model_of(experiment(ours), 1)
    report = transfer_weights(model, path, ours)
    assert torch.equal(tokens(model, ours)["L_Hip"], tokens(source, COCO)["left_hip"])
    assert "copied: 2 (L_Hip, Nose)" in report.summary()
    assert "initialised: 1 (tail)" in report.summary()


def test_the_same_skeleton_is_loaded_whole(tmp_path: Path) -> None:
    source = model_of(experiment(CROWD), 0)
    path = written(tmp_path, experiment(CROWD), source)
    model = model_of(experiment(CROWD), 1)
    report = transfer_weights(model, path, CROWD)
    assert all(map(torch.equal, model.state_dict().values(), source.state_dict().values()))
    assert "keypoints" not in report.summary()


def test_pulled_weights_say_it_in_their_manifest(tmp_path: Path) -> None:
    source = model_of(experiment(CROWD), 0)
    path = tmp_path / "pulled.safetensors"
    save_file(source.state_dict(), path)
    model = model_of(experiment(COCO), 1)
    with pytest.raises(UserError, match="14 keypoint tokens and does not say for which"):
        transfer_weights(model, path, COCO)
    manifest = {"experiment": dump_experiment(experiment(CROWD))}
    (tmp_path / "pulled.safetensors.json").write_text(json.dumps(manifest))
    transfer_weights(model, path, COCO)
    assert torch.equal(tokens(model, COCO)["left_hip"], tokens(source, CROWD)["left_hip"])


@pytest.mark.parametrize("damage", ["skeleton: 3", "[", "skeleton: {keypoints: [a]}", "3"])
def test_a_damaged_experiment_is_named(tmp_path: Path, damage: str) -> None:
    source = model_of(experiment(COCO), 0)
    path = tmp_path / "theirs.pth"
    torch.save({"state_dict": source.state_dict(), "meta": {"experiment": damage}}, path)
    with pytest.raises(UserError, match=r"theirs\.pth"):
        transfer_weights(model_of(experiment(CROWD), 1), path, CROWD)


def test_another_width_is_the_usual_refusal(tmp_path: Path) -> None:
    path = written(tmp_path, experiment(COCO), model_of(experiment(COCO), 0))
    wider = experiment(CROWD).model_dump()
    wider["model"]["keypoint_head"]["tokenpose_cfg"]["dim"] = 96
    with pytest.raises(UserError, match="does not fit the model"):
        transfer_weights(model_of(parse_experiment(wider), 1), path, CROWD)


def test_a_checkpoint_of_another_skeleton_is_refused_with_both_sides(tmp_path: Path) -> None:
    """As many keypoints, so that every tensor fits: to evaluate, to predict, or to go on with."""
    theirs, ours = experiment(ANIMAL), experiment(COCO)
    path = written(tmp_path, theirs, model_of(theirs, 0))
    with pytest.raises(UserError) as error:
        load_model(ours.model, path, COCO)
    for side in ("17 (nose, paw0,", "17 (nose, left_eye,", "load_from"):
        assert side in str(error.value)
    content = torch.load(path) | {"optimizer": {"state": {}}}
    with pytest.raises(UserError, match="of another skeleton than the experiment"):
        check_fits(ours, Start(content, path), model_of(ours, 1))
