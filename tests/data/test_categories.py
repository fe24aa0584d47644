"""Which category of a file a skeleton is of: the right one, several as one, or a refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sdpose.config.keypoint_names import joints_of, sigmas, upper_body
from sdpose.config.schema import COCO, Skeleton, preset
from sdpose.data.categories import are_one, persons_of
from sdpose.data.coco import load_annotations, load_file_names
from sdpose.errors import UserError
from sdpose.inference.box_file import BoxFile
from sdpose.inference.pictures import Source
from sdpose.models.transfer import skeleton_of_weights, transfer_weights
from sdpose.prepare.pack_builder import Source as PackSource

HAND, ANIMAL = preset("hand21"), preset("ap10k")
BARE = {"id": 1, "name": "person"}
PERSON = {"id": 1, "name": "person", "keypoints": list(COCO.keypoints)}
WORKER = {"id": 2, "name": "worker", "keypoints": list(COCO.keypoints)}
NUMBERED = {"id": 2, "name": "hand", "keypoints": [str(i) for i in range(21)]}
DOG = {"id": 2, "name": "dog", "keypoints": list(ANIMAL.keypoints)}
CAT = {"id": 3, "name": "cat", "keypoints": list(ANIMAL.keypoints)}
BARE_HAND = {"id": 2, "name": "hand"}


@pytest.mark.parametrize(
    ("categories", "skeleton", "expected"),
    [
        ([PERSON, WORKER], COCO, [1]),
        ([BARE, WORKER], COCO, [1]),  # as before there were other skeletons
        ([WORKER], COCO, [2]),
        ([PERSON, DOG], ANIMAL, [2]),
        ([PERSON, DOG, CAT], ANIMAL, [2, 3]),
        ([BARE, NUMBERED], HAND, [2]),
        ([PERSON, NUMBERED], HAND, [2]),
        ([BARE_HAND], HAND, [2]),
        ([BARE, BARE_HAND], HAND, None),
        ([], COCO, None),
    ],
)
def test_the_category(
    categories: list[dict[str, Any]], skeleton: Skeleton, expected: list[int] | None
) -> None:
    found = persons_of(categories, skeleton)
    assert are_one(found, skeleton) == (expected is not None)
    if expected is not None:
        assert [category["id"] for category in found] == expected


def document(**more: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 80}],
        "annotations": [
            {
                "id": number,
                "image_id": 1,
                "category_id": number,
                "bbox": [10, 20, 30, 40],
                "area": 500,
                "keypoints": [10 * number, 30, 2] * 17,
                **more,
            }
            for number in (1, 2)
        ],
        "categories": [PERSON, DOG],
    }


def write(folder: Path, content: Any) -> Path:
    (folder / "a.json").write_text(json.dumps(content))
    return folder / "a.json"


def test_packs_of_one_file_are_apart_by_skeleton(tmp_path: Path) -> None:
    """They hold the joints of different annotations."""
    path = write(tmp_path, document())
    keys = [
        PackSource(load_annotations(path, skeleton), "sha", tmp_path, {"a.jpg": "sha"}).key()
        for skeleton in (COCO, ANIMAL)
    ]
    assert keys[0] != keys[1]


def test_images_are_named_whatever_the_keypoints_are(tmp_path: Path) -> None:
    """As a fetch of a dataset reads them."""
    path = write(tmp_path, document() | {"categories": [NUMBERED]})
    assert load_file_names(path) == ("a.jpg",)
    with pytest.raises(UserError, match="'images' must be a list"):
        load_file_names(write(tmp_path, {"images": 3}))


def test_cocos_files_may_have_heads_in_forms_of_their_own(tmp_path: Path) -> None:
    path = write(tmp_path, document(headbox={"x": 1}))
    assert load_annotations(path).head_sizes is None
    with pytest.raises(UserError, match="headbox"):
        load_annotations(path, ANIMAL)


def test_boxes_of_animals_are_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    rows = [{"image_id": 1, "category_id": i, "bbox": [1, 2, 3, 4]} for i in (1, 2)]
    path = write(tmp_path, rows)
    assert BoxFile(path, Source(tmp_path / "a.jpg")).category == 1
    with pytest.raises(UserError, match=r"which category_id.*\[1, 2\]"):
        BoxFile(path, Source(tmp_path / "a.jpg"), ANIMAL)


def test_ordinary_words_are_no_joints() -> None:
    assert joints_of(["front", "rear", "rank", "earl"]) == ["front", "rear", "rank", "earl"]
    assert joints_of(["lear", "rear"]) == ["left_ear", "right_ear"]
    assert sigmas(["rear"], {"right_ear": 0.035})[1] == ["rear"]
    assert upper_body(["nose", "rear"]) == (["nose"], ["rear"])


def test_a_stray_file_beside_weights_says_nothing(tmp_path: Path) -> None:
    for name in ("a.pth", "a.safetensors"):
        (tmp_path / f"{name}.json").write_text('{"note": 1}')
        assert skeleton_of_weights(tmp_path / name, {}) is None
    damaged = {"experiment": "skeleton: {keypoints: [a, a]}"}
    with pytest.raises(UserError, match=r"a\.pth: the skeleton of its experiment.*more than once"):
        skeleton_of_weights(tmp_path / "a.pth", damaged)


def test_one_token_is_not_copied_to_several_keypoints(tmp_path: Path) -> None:
    from sdpose.config import load_experiment
    from sdpose.models import build_model

    changes = ["model.backbone={type: StemNet, width: 4, num_blocks: 1}"]
    model = load_experiment("quickstart", changes).model
    theirs = build_model(model)
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "coco.pth")
    ours = Skeleton(keypoints=("nose", "left_eye1", "left_eye2"), flip_pairs=(), sigmas=(0.1,) * 3)
    report = transfer_weights(build_model(model, 3), tmp_path / "coco.pth", ours)
    assert "taken for COCO's" in report.summary()
    assert "copied: 1 (nose)" in report.summary()
    assert "initialised: 2 (left_eye1, left_eye2)" in report.summary()
