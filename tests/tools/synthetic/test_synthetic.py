"""The synthetic dataset: COCO's layout, reproducible bytes, annotations that fit the pictures."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from sdpose.config.schema import COCO as PERSON
from sdpose.data.coco import load_annotations
from sdpose.errors import UserError
from sdpose.tools.synthetic.dataset import write_synthetic_coco
from sdpose.tools.synthetic.person import sample_figure
from sdpose.tools.synthetic.poses import LIMITS, POSES

NUM_TRAIN, NUM_VAL, SEED = 150, 10, 3


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic")
    write_synthetic_coco(out, num_train=NUM_TRAIN, num_val=NUM_VAL, seed=SEED)
    return out


@pytest.fixture(scope="module")
def coco(dataset: Path) -> COCO:
    return COCO(str(dataset / "annotations/person_keypoints_train2017.json"))


def bytes_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def joints_of(annotation: dict) -> np.ndarray:
    return np.array(annotation["keypoints"], dtype=float).reshape(17, 3)


def test_layout_is_that_of_coco(dataset: Path, coco: COCO) -> None:
    assert coco.dataset.keys() == {"info", "licenses", "images", "annotations", "categories"}
    assert set(coco.anns[next(iter(coco.anns))]) == {
        *("id", "image_id", "category_id", "bbox", "area", "segmentation", "iscrowd"),
        *("num_keypoints", "keypoints"),
    }
    (person,) = coco.loadCats(coco.getCatIds())
    assert tuple(person["keypoints"]) == PERSON.keypoints
    assert person["skeleton"] == [[a + 1, b + 1] for a, b in PERSON.limb_indices]
    val = COCO(str(dataset / "annotations/person_keypoints_val2017.json"))
    for split, index, number in (("train", coco, NUM_TRAIN), ("val", val, NUM_VAL)):
        assert len(index.imgs) == number
        for image in index.imgs.values():
            picture = cv2.imread(str(dataset / f"{split}2017" / image["file_name"]))
            assert picture is not None
            assert picture.shape == (image["height"], image["width"], 3)
            assert image["file_name"] == f"{image['id']:012d}.jpg"
    assert not set(coco.imgs) & set(val.imgs)
    assert not set(coco.anns) & set(val.anns)


def test_our_reader_accepts_it(dataset: Path) -> None:
    annotations = load_annotations(dataset / "annotations/person_keypoints_train2017.json")
    assert len(annotations.persons()) > NUM_TRAIN


def test_same_seed_same_bytes_for_any_number_of_processes(tmp_path: Path) -> None:
    for name, num_train, seed, workers in (
        *(("a", 6, 1, 1), ("b", 6, 1, 2)),
        *(("more", 9, 1, 1), ("other", 6, 2, 1)),
    ):
        write_synthetic_coco(
            tmp_path / name, num_train=num_train, num_val=2, seed=seed, workers=workers
        )
    a, b, more, other = (bytes_of(tmp_path / name) for name in ("a", "b", "more", "other"))
    assert a == b
    pictures = {name for name in a if name.endswith(".jpg")}
    assert all(a[name] == more[name] for name in pictures)
    assert all(a[name] != other[name] for name in pictures)
    assert len({a[name] for name in pictures}) == len(pictures)


def test_annotations_fit_the_pictures(dataset: Path, coco: COCO) -> None:
    """Masks, boxes, areas and joints agree with each other and stay inside the image."""
    for annotation in coco.anns.values():
        image = coco.imgs[annotation["image_id"]]
        joints = joints_of(annotation)
        assert set(joints[:, 2]) <= {0, 1, 2}
        assert annotation["num_keypoints"] == (joints[:, 2] > 0).sum()
        assert not joints[joints[:, 2] == 0].any()
        labelled = joints[joints[:, 2] > 0, :2]
        assert (labelled >= -0.5).all()
        assert (labelled < np.array([image["width"], image["height"]]) - 0.5).all()

        x, y, width, height = annotation["bbox"]
        seen = joints[joints[:, 2] == 2, :2]  # up to a pixel beside the body
        assert (seen >= np.array([x, y]) - 1.5).all()
        assert (seen <= np.array([x + width, y + height]) + 0.5).all()
        mask = coco.annToMask(annotation)  # the outline may cut the tip of a sliver
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert np.abs([columns[0] - x, rows[0] - y]).max() <= 4
        assert np.abs([columns[-1] + 1 - x - width, rows[-1] + 1 - y - height]).max() <= 4
        if annotation["area"] > 1000:
            assert int(mask.sum()) == pytest.approx(annotation["area"], rel=0.05)


def test_visible_joints_lie_on_their_person(coco: COCO) -> None:
    outside = total = 0
    for annotation in coco.anns.values():
        mask = cv2.dilate(coco.annToMask(annotation), np.ones((5, 5), np.uint8))
        for x, y, v in joints_of(annotation):
            if v == 2:
                total += 1
                outside += not mask[round(y), round(x)]
    assert total > 1000
    assert outside == 0


def test_left_and_right_are_the_persons_own(coco: COCO) -> None:
    """From the front (both eyes seen) the left side is on the right, from behind on the left."""
    left, right = PERSON.keypoints.index("left_shoulder"), PERSON.keypoints.index("right_shoulder")
    front, back = [], []
    for annotation in coco.anns.values():
        joints = joints_of(annotation)
        trunk_height = joints[11:13, 1].mean() - joints[5:7, 1].mean()
        trunk_seen = joints[[5, 6, 11, 12], 2].all()
        if not trunk_seen or trunk_height < 0.2 * annotation["bbox"][3]:  # lying
            continue
        side = joints[left, 0] - joints[right, 0]
        if joints[1:3, 2].all():
            front.append(side)
        elif not joints[0:3, 2].any() and joints[3:5, 2].all():
            back.append(side)
    assert len(front) > 50
    assert len(back) > 10
    assert np.mean(np.array(front) > 0) > 0.9
    assert np.mean(np.array(back) < 0) > 0.9


def test_it_is_as_varied_as_it_should_be(coco: COCO) -> None:
    annotations = list(coco.anns.values())
    crowds = [a for a in annotations if a["iscrowd"]]
    far = [a for a in annotations if not a["iscrowd"] and a["num_keypoints"] == 0]
    people = [a for a in annotations if a["num_keypoints"] > 0]
    assert crowds
    assert far
    assert all(isinstance(a["segmentation"], dict) for a in crowds)
    assert all(isinstance(a["segmentation"], list) for a in far + people)
    states = np.array([joints_of(a)[:, 2] for a in people])
    assert [(states == v).mean() > 0.03 for v in (0, 1, 2)] == [True, True, True]
    areas = np.array([a["area"] for a in people])
    assert ((areas > 32**2) & (areas < 96**2)).mean() > 0.2  # COCO's medium
    assert (areas > 96**2).mean() > 0.1  # COCO's large
    assert max(len(coco.getAnnIds(i, iscrowd=False)) for i in coco.imgs) >= 3


def test_every_pose_keeps_to_the_joints_limits() -> None:
    rng = np.random.default_rng(0)
    for pose in POSES.values():
        for angles in (pose.trunk, pose.lead, pose.trail):
            assert all(
                LIMITS[name][0] <= mean <= LIMITS[name][1] for name, (mean, _) in angles.items()
            )
    figures = [sample_figure(rng) for _ in range(50)]
    joints = [{name: j.position for name, j in f.joints.items()} for f in figures]
    bone = [np.linalg.norm(each["left_knee"] - each["left_hip"]) for each in joints]
    assert np.ptp(bone) < 0.1 * np.mean(bone)  # in space; in the picture it is foreshortened
    assert len({tuple(each["left_wrist"]) for each in joints}) == 50


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("do not lose me")
    with pytest.raises(UserError, match="was not written by 'sdpose synth'"):
        write_synthetic_coco(tmp_path, num_train=1, num_val=1, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError, match="is a file"):
        write_synthetic_coco(tmp_path / "thesis.tex", num_train=1, num_val=1, seed=0)


@pytest.mark.parametrize("wrong", [{"num_train": 0}, {"num_val": -1}, {"seed": -1}])
def test_numbers_out_of_range_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    numbers = {"num_train": 1, "num_val": 1, "seed": 0} | wrong
    with pytest.raises(UserError, match="allowed: "):
        write_synthetic_coco(tmp_path / "out", **numbers)
    assert not (tmp_path / "out").exists()


def test_a_complete_dataset_is_left_alone_and_another_one_replaced(tmp_path: Path) -> None:
    write_synthetic_coco(tmp_path, num_train=5, num_val=2, seed=0)
    first = bytes_of(tmp_path)
    steps: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        steps.append((done, total))

    write_synthetic_coco(tmp_path, num_train=5, num_val=2, seed=0, progress=progress)
    assert steps == []
    assert bytes_of(tmp_path) == first

    (tmp_path / "train2017" / "000000000003.jpg").unlink()  # an interrupted run looks like this
    write_synthetic_coco(tmp_path, num_train=5, num_val=2, seed=0, progress=progress)
    assert steps == [(i, 7) for i in range(1, 8)]
    assert bytes_of(tmp_path) == first

    (tmp_path / "notes.txt").write_text("mine")
    write_synthetic_coco(tmp_path, num_train=3, num_val=1, seed=1)
    names = sorted(path.name for path in tmp_path.rglob("*.jpg"))
    assert names == [f"{i:012d}.jpg" for i in (1, 2, 3, 500_001)]
    assert (tmp_path / "notes.txt").read_text() == "mine"
    marker = json.loads((tmp_path / "synthetic.json").read_text())
    assert marker["complete"] is True
