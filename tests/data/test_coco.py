"""COCO files: the official rows, and files that no tool should pass over."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from sdpose.data.coco import load_annotations
from sdpose.data.detections import load_detections
from sdpose.errors import UserError

VAL = "annotations/person_keypoints_val2017.json"
DETECTIONS = "person_detection_results/COCO_val2017_detections_AP_H_56_person.json"
STANDING = [20, 30, 2] * 17


def person(ann_id, image_id=1, **changes):
    entry = {
        "id": ann_id,
        "image_id": image_id,
        "category_id": 1,
        "bbox": [10, 20, 30, 40],
        "area": 700.0,
        "iscrowd": 0,
        "num_keypoints": 17,
        "keypoints": list(STANDING),
        "segmentation": [[1, 2, 3, 4, 5, 6]],
    }
    return entry | changes


def coco(*annotations, **changes):
    document = {
        "images": [
            {"id": 1, "file_name": "a.jpg", "width": 100, "height": 80, "license": 4},
            {"id": 2, "file_name": "b.jpg", "width": 60, "height": 90},
        ],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": list(annotations),
        "licenses": [{"id": 4, "name": "CC BY", "url": "http://example.org"}],
    }
    return document | changes


@pytest.fixture
def write(tmp_path):
    def write_json(document, name="annotations.json"):
        path = tmp_path / name
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return path

    return write_json


def refusal(read, *arguments):
    with pytest.raises(UserError) as caught:
        read(*arguments)
    return str(caught.value)


# --------------------------------------------------------------------------- the official rows


@pytest.mark.parametrize("folder", ["coco-4", "coco-mini"])
def test_ground_truth_rows_are_the_official_ones(folder, request, reference_dir):
    root = request.getfixturevalue(folder.replace("-", "_"))
    name = f"shared_{folder.replace('-', '')}"
    expected = np.load(reference_dir / f"e2e/{name}/e2e_{name}_gt_oracle.npz")
    persons = load_annotations(root / VAL).persons()
    np.testing.assert_array_equal(persons.ann_id, expected["key"])
    np.testing.assert_array_equal(persons.image_id, expected["image_id"])
    np.testing.assert_array_equal(persons.boxes_xywh, expected["box_xywh"])
    np.testing.assert_array_equal(persons.visible, expected["joint_visible"])


def test_joints_are_the_official_ones(coco_4, reference_dir):
    expected = np.load(reference_dir / "data.npz")
    persons = load_annotations(coco_4 / VAL).persons()
    np.testing.assert_array_equal(persons.joints, expected["person_joints"][:, :, :2])
    np.testing.assert_array_equal(persons.visible, expected["person_visible"][:, :, 0])


def test_detection_rows_are_the_official_ones(coco_4, reference_dir):
    expected = np.load(reference_dir / "e2e/shared_coco4/e2e_shared_coco4_det_oracle.npz")
    boxes = load_detections(coco_4 / DETECTIONS, load_annotations(coco_4 / VAL))
    np.testing.assert_array_equal(boxes.key, expected["key"])
    np.testing.assert_array_equal(boxes.image_id, expected["image_id"])
    np.testing.assert_array_equal(boxes.boxes_xywh, expected["box_xywh"])
    np.testing.assert_array_equal(boxes.box_score, expected["box_score"])


# ------------------------------------------------------------------------------ who is counted


def test_who_is_left_out_and_in_which_order(write):
    path = write(
        coco(
            person(11, image_id=2),
            person(12, image_id=1),
            person(13, iscrowd=1),
            person(14, num_keypoints=0, keypoints=[0] * 51),
            person(15, area=0),
            person(16, bbox=[10, 20, 0, 40]),
            person(17, bbox=[10, 20, -5, 40]),
            person(18, bbox=[200, 20, 30, 40]),
            person(19, bbox=[-50, 20, 30, 40], image_id=2, num_keypoints=17),
            {k: v for k, v in person(20).items() if k not in ("keypoints", "num_keypoints")},
            person(21, image_id=1),
        )
    )
    persons = load_annotations(path).persons()
    assert persons.ann_id.tolist() == [12, 21, 11, 19]
    # (-50, width 30) becomes (0, width 30), as in the official code: clipped from the left first
    assert persons.boxes_xywh[-1].tolist() == [0, 20, 30, 40]


def test_boxes_are_clipped_to_the_last_pixel(write):
    path = write(coco(person(1, bbox=[-5, 60, 200, 200])))
    assert load_annotations(path).persons().boxes_xywh.tolist() == [[0, 60, 99, 19]]


def test_a_person_without_visible_joints_stays_a_person_of_weight_zero(write):
    persons = load_annotations(write(coco(person(1, keypoints=[5, 6, 0] * 17)))).persons()
    assert len(persons) == 1
    assert persons.visible.sum() == 0


def test_images_left_out_take_their_annotations_along(write):
    annotations = load_annotations(write(coco(person(1), person(2, image_id=2), person(3))))
    rest = annotations.without_images({"a.jpg"})
    assert rest.file_names == ("b.jpg",)
    assert rest.persons().ann_id.tolist() == [2]
    assert rest.persons().image_index.tolist() == [0]
    assert rest.image_sizes_wh.tolist() == [[60, 90]]


def test_a_custom_set_with_other_categories(write):
    """The person category need not be number 1, and other categories may have any fields."""
    path = write(
        coco(
            {"id": "x", "image_id": 1, "category_id": 1, "bbox": None},
            person(5, category_id=7),
            categories=[{"id": 1, "name": "dog"}, {"id": 7, "name": "person"}],
        )
    )
    annotations = load_annotations(path)
    assert annotations.person_category["id"] == 7
    assert annotations.persons().ann_id.tolist() == [5]
    rows = [
        {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.9},
        {"image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4], "score": 0.8},
    ]
    assert load_detections(write(rows, "det.json"), annotations).box_score.tolist() == [0.8]


def test_licences_are_kept(write):
    annotations = load_annotations(write(coco(person(1))))
    assert annotations.licenses == {4: "CC BY (http://example.org)"}
    assert annotations.image_licenses.tolist() == [4, -1]


# --------------------------------------------------------------------------------- refused files


def test_a_truncated_file(coco_mini, write):
    text = (coco_mini / VAL).read_text()
    message = refusal(load_annotations, write(text[: len(text) // 2]))
    assert "not valid JSON" in message
    assert "annotations.json" in message
    assert "char" in message


def test_a_missing_file(tmp_path):
    assert "no.json" in refusal(load_annotations, tmp_path / "no.json")


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ([], "expected an object"),
        ({"images": []}, "'annotations' must be a list, found nothing"),
        (coco(categories=[]), "exactly one category 'person'"),
        (coco(categories=[{"id": 1, "name": "cat"}]), "found 1: 'cat'"),
        (
            coco(categories=[{"id": 1, "name": "person", "keypoints": ["nose"] * 14}]),
            "14 keypoints, not COCO's 17",
        ),
        (coco(images=[]), "'images' is empty"),
        (coco(images=[{"id": 1, "file_name": "a.jpg"}]), "image 1: None x None"),
        (coco(images=[{"id": 1, "width": 5, "height": 5}]), "without a file_name: image 1"),
        (coco(images=[{"file_name": "a.jpg", "width": 5, "height": 5}]), "image at index 0"),
        (coco(images=coco()["images"] * 2), "duplicate image ids: 1 (2 times), 2 (2 times)"),
        (coco(person(1), person(1)), "duplicate annotation ids: 1 (2 times)"),
        (coco(person(1, image_id=9)), "'images' does not have: annotation 1 (image 9)"),
        (coco(person(1, keypoints=[1, 2, 3])), "not a list of 51 numbers: annotation 1"),
        (coco(person(1, keypoints=["a", 0, 2] * 17)), "not a list of 51 numbers: annotation 1"),
        (coco(person(1, bbox=[1, 2, 3])), "'bbox' is missing or not a list of 4"),
        (coco(person(1, bbox=[1, float("nan"), 3, 4])), "'bbox' is NaN or infinite: annotation 1"),
        (coco(person(1, area=None)), "'area'"),
        (coco(person(1, keypoints=[5, 5, -1] * 17)), "negative visibility"),
        (coco(person("one")), "'id' is missing or no integer"),
        (coco({"id": 1, "image_id": 1}), "without category_id: annotation 1"),
        (coco("person"), "annotations that are no objects: index 0"),
    ],
)
def test_unusable_annotations_are_refused_by_name(document, expected, write):
    assert expected in refusal(load_annotations, write(document))


def test_joints_in_another_order_are_refused(coco_4, write):
    document = json.loads((coco_4 / VAL).read_text())
    document["categories"][0]["keypoints"].reverse()
    assert "another order" in refusal(load_annotations, write(document))


def test_all_problems_are_reported_at_once_and_counted(write):
    document = coco(
        *(person(i, bbox=[0, 0, float("inf"), 1]) for i in range(8)),
        person(8, num_keypoints="many"),
        person(9, image_id=None),
    )
    message = refusal(load_annotations, write(document))
    assert "8 rows whose 'bbox' is NaN or infinite: annotation 0," in message
    assert "annotation 4, and 3 more" in message
    assert "annotation 8 ('many')" in message
    assert "'image_id' is missing or no integer: annotation 9" in message


# ------------------------------------------------------------------------------------- detections


@pytest.fixture
def detections(coco_4):
    return json.loads((coco_4 / DETECTIONS).read_text())


def test_detections_below_the_threshold_are_dropped(coco_4, detections):
    annotations = load_annotations(coco_4 / VAL)
    boxes = load_detections(coco_4 / DETECTIONS, annotations, score_threshold=0.5)
    assert boxes.key.tolist() == [i for i, row in enumerate(detections) if row["score"] >= 0.5]


def test_detections_of_other_images_and_empty_ones_are_counted(coco_4, detections, write):
    rows = copy.deepcopy(detections)
    rows[3]["image_id"] = 123456
    rows[5]["bbox"][2] = 0.0
    rows[6]["category_id"] = 2
    boxes = load_detections(write(rows, "det.json"), load_annotations(coco_4 / VAL))
    assert (boxes.num_other_images, boxes.num_empty) == (1, 1)
    assert boxes.key.tolist() == [i for i in range(len(rows)) if i not in (3, 5, 6)]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ({"annotations": []}, "expected a list of detections"),
        ([], "no detection of category 1"),
        ([{"image_id": 785}], "detections without image_id, category_id, bbox, score: index 0"),
        (
            [{"image_id": 785, "category_id": 1, "bbox": [0, 0, 5, float("nan")], "score": 1}],
            "'bbox' is NaN or infinite: index 0",
        ),
        (
            [{"image_id": 785, "category_id": 1, "bbox": [0, 0, 5, 5], "score": "high"}],
            "'score' is missing or not a number: index 0",
        ),
        (
            [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 1}],
            "the two files are of different sets",
        ),
    ],
)
def test_unusable_detections_are_refused_by_name(rows, expected, coco_4, write):
    annotations = load_annotations(coco_4 / VAL)
    assert expected in refusal(load_detections, write(rows, "det.json"), annotations)
