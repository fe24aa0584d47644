"""`sdpose synth --skeleton`: heads, CrowdPose's and MPII's people, animals, hands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from pycocotools.coco import COCO

from sdpose.cli import cli
from sdpose.config.schema.skeleton import preset
from sdpose.data.coco import load_annotations
from sdpose.errors import UserError
from sdpose.prepare.plausibility import odd_coordinates
from sdpose.tools.synthetic.animal import sample_animal
from sdpose.tools.synthetic.annotations import crowd_index
from sdpose.tools.synthetic.dataset import write_synthetic_coco
from sdpose.tools.synthetic.hand import sample_hand
from sdpose.tools.synthetic.subjects import SUBJECTS

OTHERS = [name for name in SUBJECTS if name != "coco"]
NUM_TRAIN = 60


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("subjects")
    for name in OTHERS:
        write_synthetic_coco(
            root / name, num_train=NUM_TRAIN, num_val=2, seed=1, skeleton=name, workers=1
        )
    return root


def read(root: Path, name: str) -> COCO:
    return COCO(str(root / name / "annotations/person_keypoints_train2017.json"))


def joints_of(annotation: dict[str, Any]) -> np.ndarray:
    return np.array(annotation["keypoints"], dtype=float).reshape(-1, 3)


@pytest.mark.parametrize("name", OTHERS)
def test_the_file_is_of_the_skeleton(name: str, root: Path) -> None:
    path = root / name / "annotations/person_keypoints_train2017.json"
    subject = SUBJECTS[name]
    annotations = load_annotations(path, subject.skeleton)
    assert len(annotations.persons()) >= 0.9 * NUM_TRAIN
    assert (annotations.keypoints[:, :, 2] > 0).mean() > 0.75
    assert odd_coordinates(annotations) == []
    (category,) = read(root, name).dataset["categories"]
    assert category["name"] == subject.category
    assert tuple(category["keypoints"]) == subject.skeleton.keypoints
    assert category["skeleton"] == [[a + 1, b + 1] for a, b in subject.skeleton.limb_indices]
    if name != "head5":
        assert subject.skeleton == preset(name)


@pytest.mark.parametrize("name", OTHERS)
def test_masks_boxes_and_joints_agree(name: str, root: Path) -> None:
    coco = read(root, name)
    visible = outside = 0
    for annotation in coco.anns.values():
        image = coco.imgs[annotation["image_id"]]
        joints = joints_of(annotation)
        assert annotation["num_keypoints"] == (joints[:, 2] > 0).sum()
        labelled = joints[joints[:, 2] > 0, :2]
        assert (labelled >= -0.5).all()
        assert (labelled < np.array([image["width"], image["height"]]) - 0.5).all()
        mask = coco.annToMask(annotation)
        if annotation["area"] > 1000:
            assert int(mask.sum()) == pytest.approx(annotation["area"], rel=0.05)
        reached = cv2.dilate(mask, np.ones((5, 5), np.uint8))
        for x, y, v in joints:
            if v == 2:
                visible += 1
                outside += not reached[round(y), round(x)]
    assert visible > 200
    assert outside <= 0.01 * visible  # a wrist may be shown by the forearm, which is not the hand


def test_the_box_of_a_head_is_not_that_of_the_person(root: Path) -> None:
    coco = read(root, "head5")
    boxes = np.array([a["bbox"] for a in coco.anns.values()])
    whole = boxes[boxes[:, 3] > 20]
    assert np.median(whole[:, 2] / whole[:, 3]) == pytest.approx(0.85, abs=0.2)
    assert np.median([a["area"] for a in coco.anns.values()]) > 32**2


def test_crowd_index_counts_the_joints_of_others_in_a_box() -> None:
    def person(bbox: list[int], *joints: tuple[int, int]) -> dict[str, Any]:
        triples = [value for x, y in joints for value in (x, y, 2)]
        return {
            "bbox": bbox,
            "keypoints": [*triples, 0, 0, 0],  # one that is not annotated
            "num_keypoints": len(joints),
        }

    alone = person([0, 0, 10, 10], (1, 1), (8, 9))
    assert crowd_index([]) == 0
    assert crowd_index([alone]) == 0
    # One of its two joints lies in the box of the first; none of the first's lies in its own.
    beside = person([9, 4, 20, 10], (10, 5), (20, 10))
    assert crowd_index([alone, beside]) == pytest.approx((1 / 2 + 0 / 2) / 2)
    assert crowd_index([alone, *[beside] * 9]) == 1  # at most
    far = {"bbox": [0, 0, 10, 10], "keypoints": [0] * 9, "num_keypoints": 0}
    assert crowd_index([alone, far]) == 0


def test_images_of_crowdpose_are_easy_medium_and_hard(root: Path) -> None:
    index = [image["crowdIndex"] for image in read(root, "crowdpose").imgs.values()]
    assert all(0 <= value <= 1 for value in index)
    shares = np.histogram(index, [0, 0.1, 0.8, 1.0])[0] / len(index)
    assert (shares > 0.02).all()


def test_head_boxes_hold_the_head(root: Path) -> None:
    coco = read(root, "mpii")
    names = SUBJECTS["mpii"].skeleton.keypoints
    for annotation in coco.anns.values():
        x1, y1, x2, y2 = annotation["headbox"]
        joints = joints_of(annotation)
        top_x, top_y, v = joints[names.index("head_top")]
        if v == 2:
            assert x1 <= top_x <= x2
            assert y1 - 1 <= top_y <= y2 + 1
        assert 0.5 < (x2 - x1) / (y2 - y1) < 2


def test_hands_are_left_and_right_open_and_closed() -> None:
    rng = np.random.default_rng(0)
    hands = [sample_hand(rng) for _ in range(200)]
    positions = [{name: j.position for name, j in hand.joints.items()} for hand in hands]
    reach = [np.linalg.norm(each["middle_finger4"] - each["wrist"]) for each in positions]
    assert min(reach) < 0.6 < 0.95 < max(reach)
    mirrored = []
    for each in positions:  # handedness, whatever the view is: three directions of the palm
        up, across = each["middle_finger1"], each["forefinger1"] - each["pinky_finger1"]
        curl = each["ring_finger4"] - each["ring_finger1"]
        mirrored.append(np.linalg.det(np.array([up, across, curl])) > 0)
    assert 0.35 < np.mean(mirrored) < 0.65
    for each in positions:
        bone = np.linalg.norm(each["forefinger2"] - each["forefinger1"])
        assert bone == pytest.approx(0.23)


def test_an_animal_shows_the_eye_of_its_near_side() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        joints = sample_animal(rng).joints
        left, right = joints["L_Eye"], joints["R_Eye"]
        near, far = sorted((left, right), key=lambda eye: eye.position[2])
        assert far.hidden or not near.hidden
        shoulders = [joints[f"{side}_Shoulder"].position[2] for side in "LR"]
        near_side, far_side = ("L", "R") if shoulders[0] < shoulders[1] else ("R", "L")
        assert "trunk" in joints[f"{near_side}_Shoulder"].shown_by
        if abs(shoulders[0] - shoulders[1]) > 0.2:
            assert "trunk" not in joints[f"{far_side}_Shoulder"].shown_by


def test_the_command_refuses_an_unknown_name_with_the_list(tmp_path: Path) -> None:
    command = ["synth", str(tmp_path / "out"), "--skeleton", "unicorn"]
    refused = CliRunner().invoke(cli, command)
    assert isinstance(refused.exception, UserError)
    assert "'unicorn'" in str(refused.exception)
    assert all(name in str(refused.exception) for name in SUBJECTS)
    assert not (tmp_path / "out").exists()
    shown = CliRunner().invoke(cli, ["synth", "--help"]).output
    assert all(name in shown for name in SUBJECTS)


def test_another_skeleton_replaces_the_dataset(tmp_path: Path) -> None:
    def write(skeleton: str) -> dict[str, Any]:
        write_synthetic_coco(tmp_path, num_train=2, num_val=1, seed=0, skeleton=skeleton, workers=1)
        text = (tmp_path / "annotations/person_keypoints_val2017.json").read_text()
        assert json.loads((tmp_path / "synthetic.json").read_text())["complete"]
        return json.loads(text)["categories"][0]

    assert write("coco")["name"] == "person"
    assert "skeleton" not in json.loads((tmp_path / "synthetic.json").read_text())
    assert write("hand21")["name"] == "hand"
    assert write("head5")["name"] == "head"
