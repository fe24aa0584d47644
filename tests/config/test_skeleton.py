"""`skeleton` in an experiment: presets, keys that are left out, and input that cannot be right."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sdpose.config import dump_experiment, load_experiment, parse_experiment
from sdpose.config.keypoint_names import UNIFORM_SIGMA
from sdpose.config.schema import COCO, PRESET_NAMES, preset
from sdpose.config.schema.skeleton import PRESETS
from sdpose.config.skeleton_yaml import skeleton_yaml
from sdpose.errors import UserError

# Of the values of each file: compared with mmpose 1.x (configs/_base_/datasets), crowdposetools'
# cocoeval.py and xtcocotools' demos on 2026-11-30.
PUBLISHED = {
    "ap10k": (17, "34516be9a28b1106"),
    "coco": (17, "e7b4ce7e38890efa"),
    "coco_wholebody": (133, "20c2fd396b0d8427"),
    "crowdpose": (14, "37e5e28f21b46d04"),
    "hand21": (21, "6ef3186b821a6c70"),
    "mpii": (16, "07bce30fb5214ad8"),
}


def load(skeleton: Any) -> Any:
    return parse_experiment({"exp_name": "a", "skeleton": skeleton})


# --------------------------------------------------------------------------------------- presets


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_has_the_published_values(name: str) -> None:
    count, digest = PUBLISHED[name]
    skeleton = preset(name)
    values = json.dumps(skeleton.model_dump(mode="json"), ensure_ascii=False)
    assert skeleton.num_keypoints == count
    assert hashlib.sha256(values.encode()).hexdigest()[:16] == digest
    assert skeleton.preset == name
    assert load(name).keypoints == skeleton


def test_all_presets_are_pinned_and_cite_a_source() -> None:
    assert tuple(sorted(PUBLISHED)) == PRESET_NAMES
    for name in PRESET_NAMES:
        head = (PRESETS / f"{name}.yaml").read_text(encoding="utf-8").partition("\nkeypoints:")[0]
        assert "http" in head


def test_presets_agree_where_they_share_joints() -> None:
    coco = dict(zip(COCO.keypoints, COCO.sigmas, strict=True))
    crowd = preset("crowdpose")
    for name, sigma in zip(crowd.keypoints, crowd.sigmas, strict=True):
        assert sigma == coco.get(name, 0.079)  # top_head and neck
    whole, hand = preset("coco_wholebody"), preset("hand21")
    assert whole.keypoints[:17] == COCO.keypoints
    assert whole.sigmas[:17] == COCO.sigmas
    assert whole.limbs[:19] == COCO.limbs
    assert whole.sigmas[91:112] == whole.sigmas[112:] == hand.sigmas


# ------------------------------------------------------------------------ keys that are left out


def test_without_names_the_other_keys_are_cocos() -> None:
    skeleton = load({"sigmas": [0.1] * 17}).keypoints
    assert skeleton == COCO.model_copy(update={"sigmas": (0.1,) * 17})
    assert load({}).keypoints == COCO


def test_one_key_on_the_command_line() -> None:
    experiment = load_experiment("quickstart", [f"skeleton.sigmas={[0.2] * 17}"])
    assert experiment.keypoints.sigmas == (0.2,) * 17
    assert experiment.keypoints.flip_pairs == COCO.flip_pairs


def test_with_names_the_other_keys_follow_from_them() -> None:
    skeleton = load({"keypoints": ["Nose", "R_Knee ", "L_Knee", "tail"]}).keypoints
    assert skeleton.keypoints == ("Nose", "R_Knee", "L_Knee", "tail")
    assert skeleton.flip_pairs == (("L_Knee", "R_Knee"),)
    assert skeleton.flip_index == (0, 2, 1, 3)
    assert skeleton.sigmas == (0.026, 0.087, 0.087, UNIFORM_SIGMA)
    assert skeleton.limbs == ()
    assert skeleton.upper_body == ("Nose",)


def test_halves_that_names_do_not_say_are_none() -> None:
    assert load({"keypoints": ["nose", "hook"]}).keypoints.upper_body == ()


def test_the_resolved_experiment_holds_all_keys_and_reads_back() -> None:
    experiment = load({"keypoints": ["nose", "tail"]})
    document = yaml.safe_load(dump_experiment(experiment))
    assert document["skeleton"] == {
        "keypoints": ["nose", "tail"],
        "flip_pairs": [],
        "sigmas": [0.026, UNIFORM_SIGMA],
        "limbs": [],
        "upper_body": ["nose"],
    }
    assert parse_experiment(dump_experiment(experiment)) == experiment


def test_a_based_experiment_with_its_own_names_takes_nothing_of_the_base(tmp_path: Path) -> None:
    (tmp_path / "hands.yaml").write_text(
        "exp_name: hands\nskeleton: {keypoints: [left_a, right_a]}"
    )
    child = tmp_path / "child.yaml"
    child.write_text("base: hands\nskeleton: {keypoints: [thumb]}")
    assert load_experiment(child).keypoints.keypoints == ("thumb",)
    assert load_experiment(child).keypoints.flip_pairs == ()
    child.write_text("base: hands\nskeleton: {sigmas: [0.1, 0.1]}")
    assert load_experiment(child).keypoints.keypoints == ("left_a", "right_a")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_skeleton_as_yaml_is_the_same_skeleton(name: str) -> None:
    text = skeleton_yaml(preset(name).model_dump(), {"": ["head"], "limbs": ["two\nlines"]})
    assert parse_experiment(f"exp_name: a\n{text}").keypoints == preset(name)


# ----------------------------------------------------------------------------------- wrong input

NAMES = ["nose", "left_eye", "right_eye"]
WRONG: dict[str, tuple[Any, str]] = {
    "unknown preset": (
        "crowd_pose",
        "skeleton: 'crowd_pose' is no skeleton: did you mean 'crowdpose'?, or the keys keypoints, "
        "flip_pairs, sigmas, limbs and upper_body below it",
    ),
    "repeated": (
        {"keypoints": ["nose", "eye", "nose"]},
        "skeleton: keypoints has these names more than once: nose",
    ),
    "empty name": (
        {"keypoints": ["nose", " "]},
        "skeleton.keypoints.1: ' ': string should have at least 1 character",
    ),
    "no names": (
        {"keypoints": []},
        "skeleton.keypoints: []: tuple should have at least 1 item after validation, not 0",
    ),
    "a number": (
        {"keypoints": ["nose", 2]},
        "skeleton.keypoints.1: 2: that is a number; in quotes it is text: '2'",
    ),
    "null": (
        {"keypoints": None},
        "skeleton.keypoints: nothing (null): expected a list, as in [nose, tail]",
    ),
    "unknown joint in a pair": (
        {"keypoints": NAMES, "flip_pairs": [["left_eye", "right_eyes"]]},
        "skeleton: flip_pairs names 'right_eyes', which is not in keypoints: did you mean "
        "'right_eye'?",
    ),
    "a joint in two pairs": (
        {"keypoints": NAMES, "flip_pairs": [["left_eye", "right_eye"], ["nose", "left_eye"]]},
        "skeleton: flip_pairs names these keypoints more than once: left_eye",
    ),
    "a joint paired with itself": (
        {"keypoints": NAMES, "flip_pairs": [["nose", "nose"]]},
        "skeleton: flip_pairs names these keypoints more than once: nose",
    ),
    "a limb from a joint to itself": (
        {"keypoints": NAMES, "limbs": [["nose", "nose"]]},
        "skeleton: limbs connects 'nose' with itself",
    ),
    "unknown joint of a limb": (
        {"keypoints": NAMES, "limbs": [["nose", "tail"]]},
        "skeleton: limbs names 'tail', which is not in keypoints: allowed: left_eye, nose, "
        "right_eye",
    ),
    "sigmas": (
        {"keypoints": NAMES, "sigmas": [0.1, 0.1]},
        "skeleton: sigmas has 2 values, keypoints 3 names: expected one value for each keypoint, "
        "in the same order",
    ),
    "sigma of zero": (
        {"keypoints": ["nose"], "sigmas": [0]},
        "skeleton.sigmas.0: 0: input should be greater than 0",
    ),
    "no partner": (
        {"keypoints": ["nose", "left_eye"]},
        "skeleton: these names say left or right, and have no partner: left_eye: give flip_pairs, "
        "[[left, right], ...], [] for none",
    ),
    "numbers": (
        {"keypoints": ["p1", "p2"]},
        "skeleton: keypoints that have numbers only do not say which are left and right: give "
        "flip_pairs, [[left, right], ...], [] for none",
    ),
    "unknown key": (
        {"keypoint": ["nose"]},
        "skeleton.keypoint: unknown key; did you mean 'keypoints'?",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_skeletons_are_refused_in_a_line(case: str) -> None:
    value, message = WRONG[case]
    with pytest.raises(UserError) as error:
        load(value)
    assert str(error.value) == f"experiment: {message}"
