"""prepare_coco: what it finds, what its digest depends on, what it remembers."""

from __future__ import annotations

import io
import json
import os
import shutil

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sdpose.config import parse_experiment
from sdpose.errors import UserError
from sdpose.prepare import verify
from sdpose.prepare.dataset import prepare_coco, unusable_images

DETECTIONS = "person_detection_results/COCO_val2017_detections_AP_H_56_person.json"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SDPOSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def experiment(root, **changes):
    return parse_experiment({"exp_name": "x", "data_root": str(root), **changes})


def photo(width, height, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height))


def jpeg(width, height, seed=0):
    return cv2.imencode(".jpg", photo(width, height, seed))[1].tobytes()


def add_split(root, split, images, *, size_of=None):
    """Images {file name: bytes, or None for a missing one} with one person each, 60 x 40 pixels
    unless size_of says otherwise."""
    folder = root / f"{split}2017"
    folder.mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    entries, people = [], []
    for number, (name, data) in enumerate(images.items(), start=1):
        width, height = (size_of or {}).get(name, (60, 40))
        entries.append({"id": number, "file_name": name, "width": width, "height": height})
        people.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "bbox": [0, 0, width, height],
                "area": width * height,
                "iscrowd": 0,
                "num_keypoints": 17,
                "keypoints": [width // 2, height // 2, 2] * 17,
            }
        )
        if data is not None:
            (folder / name).write_bytes(data)
    document = {"images": entries, "annotations": people, "categories": [PERSON]}
    (root / f"annotations/person_keypoints_{split}2017.json").write_text(json.dumps(document))


PERSON = {"id": 1, "name": "person"}


@pytest.fixture
def tiny(tmp_path):
    """Three train and two val images, and a detection file."""
    root = tmp_path / "coco"
    add_split(root, "train", {f"{i}.jpg": jpeg(60, 40, i) for i in range(3)})
    add_split(root, "val", {f"{i}.jpg": jpeg(60, 40, 10 + i) for i in range(2)})
    detections = [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 30, 30], "score": 0.7}]
    (root / DETECTIONS).parent.mkdir()
    (root / DETECTIONS).write_text(json.dumps(detections))
    return root


@pytest.fixture
def decoded(monkeypatch):
    """Names of the images that were really decoded."""
    names = []

    def decode(data, name):
        names.append(name)
        return decode_image(data, name)

    decode_image = verify.decode_image
    monkeypatch.setattr(verify, "decode_image", decode)
    return names


# ------------------------------------------------------------------------------------- real photos


def test_real_photos_pass(coco_mini):
    prepared = prepare_coco(experiment(coco_mini))
    assert (prepared.num_train_images, prepared.num_train_persons) == (40, 86)
    assert (prepared.num_val_images, prepared.num_val_persons) == (43, 68)
    assert prepared.bbox_source == "ground truth"
    assert "no detection file" in prepared.note
    assert sum(prepared.licenses.values()) == 83
    assert any("Attribution-NonCommercial" in name for name in prepared.licenses)
    assert prepared.digest in prepared.summary()


# ------------------------------------------------------------------------------------- all problems


def test_a_missing_data_root_says_where_it_looked_and_how_to_get_coco(tmp_path):
    with pytest.raises(UserError) as caught:
        prepare_coco(experiment(tmp_path / "nowhere"))
    assert str(tmp_path / "nowhere") in str(caught.value)
    assert "--fetch" in str(caught.value)
    assert "train2017.zip" in str(caught.value)


def test_all_problems_at_once(tiny):
    (tiny / "train2017/0.jpg").write_bytes(jpeg(60, 40)[:-200])
    (tiny / "train2017/1.jpg").write_bytes(b"")
    (tiny / "train2017/2.jpg").write_bytes(jpeg(50, 40))
    (tiny / "val2017/1.jpg").unlink()
    (tiny / DETECTIONS).write_text("[{")
    with pytest.raises(UserError) as caught:
        prepare_coco(experiment(tiny))
    message = str(caught.value)
    assert "train2017/0.jpg: cut off" in message
    assert "train2017/1.jpg: empty file" in message
    assert "train2017/2.jpg: 50 x 40 pixels as shown, annotated as 60 x 40" in message
    assert "val2017/1.jpg: file not found" in message
    assert "4 of 5 images" in message
    assert "not valid JSON" in message
    assert "on_corrupt=skip" in message


def test_both_annotation_files_at_once(tiny):
    (tiny / "annotations/person_keypoints_train2017.json").write_text("{")
    (tiny / "annotations/person_keypoints_val2017.json").unlink()
    with pytest.raises(UserError) as caught:
        prepare_coco(experiment(tiny))
    assert "person_keypoints_train2017.json: not valid JSON" in str(caught.value)
    assert "data.val.ann_file not found" in str(caught.value)


def test_many_unusable_images_are_counted_and_all_listed_in_a_file(tmp_path, cache):
    root = tmp_path / "coco"
    add_split(root, "train", {f"{i:03}.jpg": b"no image" for i in range(50)})
    add_split(root, "val", {f"{i:03}.jpg": None for i in range(70)})
    with pytest.raises(UserError) as caught:
        prepare_coco(experiment(root))
    message = str(caught.value)
    assert "120 of 120 images" in message
    assert "70 files not found in val2017" in message
    assert "train2017/019.jpg" in message
    assert "train2017/020.jpg" not in message
    (listing,) = cache.rglob("*.txt")
    assert str(listing) in message
    assert len(listing.read_text().splitlines()) == 120


def test_skip_leaves_unusable_images_out(tiny):
    (tiny / "train2017/1.jpg").write_bytes(b"\xff\xd8\xff")
    (tiny / "val2017/1.jpg").unlink()
    skipping = experiment(tiny, data={"on_corrupt": "skip"})
    prepared = prepare_coco(skipping)
    assert prepared.corrupt == ("train2017/1.jpg", "val2017/1.jpg")
    assert (prepared.num_train_persons, prepared.num_val_persons) == (2, 1)
    assert unusable_images(skipping, "train") == {"1.jpg"}
    assert unusable_images(skipping, "val") == {"1.jpg"}
    assert unusable_images(experiment(tiny), "val") == frozenset()


def test_skip_does_not_leave_out_everything(tiny):
    for path in (tiny / "val2017").iterdir():
        path.write_bytes(b"")
    why = (
        r"no person with keypoints in any usable image: 2 of 2 images left out \(val2017/0.jpg: em"
    )
    with pytest.raises(UserError, match=why):
        prepare_coco(experiment(tiny, data={"on_corrupt": "skip"}))


def test_images_of_all_kinds_pass(tmp_path):
    def encoded(image, kind, **options):
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    picture = Image.fromarray(photo(60, 40))
    turned = Image.Exif()
    turned[0x0112] = 6  # shown 90 degrees clockwise: 40 x 60
    sixteen_bits = cv2.imencode(".png", photo(60, 40).astype(np.uint16) * 257)[1].tobytes()
    images = {
        "cmyk.jpg": encoded(picture.convert("CMYK"), "JPEG"),
        "grey.jpg": encoded(picture.convert("L"), "JPEG"),
        "turned.jpg": encoded(picture, "JPEG", exif=turned),
        "16.png": sixteen_bits,
        "palette.png": encoded(picture.convert("P"), "PNG"),
        "transparent.png": encoded(picture.convert("RGBA"), "PNG"),
        "dot.jpg": jpeg(1, 1),
        "strip.png": cv2.imencode(".png", photo(20_000, 10))[1].tobytes(),
        "a folder/in it.jpg": jpeg(60, 40),
    }
    (tmp_path / "coco/train2017/a folder").mkdir(parents=True)
    sizes = {"turned.jpg": (40, 60), "dot.jpg": (1, 1), "strip.png": (20_000, 10)}
    add_split(tmp_path / "coco", "train", images, size_of=sizes)
    add_split(tmp_path / "coco", "val", {"0.jpg": jpeg(60, 40)})
    prepared = prepare_coco(experiment(tmp_path / "coco"))
    assert prepared.num_train_images == len(images)
    assert prepared.num_train_persons == len(images) - 1  # the box in one pixel is empty


# -------------------------------------------------------------------------------------- the digest


def test_the_digest_does_not_depend_on_place_times_or_other_files(tiny, tmp_path):
    digest = prepare_coco(experiment(tiny)).digest
    moved = tmp_path / "elsewhere" / "data"
    shutil.copytree(tiny, moved)
    (moved / "train2017/unlisted.jpg").write_bytes(b"something")
    for path in moved.rglob("*"):
        os.utime(path, (1, 1))
    assert prepare_coco(experiment(moved)).digest == digest


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_digest_changes_with_any_byte(tiny, data):
    """Any bit of any file, unless the file becomes unusable with it."""
    before = prepare_coco(experiment(tiny)).digest
    paths = sorted(path for path in tiny.rglob("*") if path.is_file())
    path = data.draw(st.sampled_from(paths))
    original = path.read_bytes()
    position = data.draw(st.integers(0, len(original) - 1))
    changed = bytearray(original)
    changed[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(changed)
    try:
        outcome = prepare_coco(experiment(tiny)).digest
    except UserError:
        outcome = "refused"
    path.write_bytes(original)
    assert outcome != before
    assert prepare_coco(experiment(tiny)).digest == before


def test_swapped_images_change_the_digest(tiny):
    before = prepare_coco(experiment(tiny)).digest
    first, second = (tiny / f"train2017/{i}.jpg" for i in (0, 1))
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    assert prepare_coco(experiment(tiny)).digest != before


def test_the_detection_file_counts_where_it_is_used(tiny):
    with_detections = prepare_coco(experiment(tiny))
    assert (with_detections.bbox_source, with_detections.num_val_boxes) == ("detections", 1)
    ground_truth = prepare_coco(experiment(tiny, data_cfg={"use_gt_bbox": True}))
    assert (ground_truth.bbox_source, ground_truth.num_val_boxes) == ("ground truth", 2)
    assert ground_truth.digest != with_detections.digest
    (tiny / DETECTIONS).write_text("[]")
    again = prepare_coco(experiment(tiny, data_cfg={"use_gt_bbox": True}))
    assert again.digest == ground_truth.digest


# -------------------------------------------------------------------------------------- the record


@pytest.fixture
def settled(monkeypatch):
    """Lets records of files that were written just now be trusted."""
    monkeypatch.setattr(verify, "_TICK_NS", -(10**18))


def test_an_unchanged_tree_is_not_decoded_again(tiny, decoded, settled):
    first = prepare_coco(experiment(tiny))
    assert len(decoded) == 5
    decoded.clear()
    assert prepare_coco(experiment(tiny)) == first
    assert decoded == []


def test_files_that_could_still_change_unseen_are_looked_at_again(tiny, decoded, monkeypatch):
    monkeypatch.setattr(verify, "_TICK_NS", 10**18)
    prepare_coco(experiment(tiny))
    prepare_coco(experiment(tiny))
    assert len(decoded) == 10


def test_a_changed_file_of_the_same_size_and_mtime_is_noticed(tiny, decoded, settled):
    before = prepare_coco(experiment(tiny)).digest
    decoded.clear()
    path = tiny / "val2017/0.jpg"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=times)
    assert prepare_coco(experiment(tiny)).digest != before
    assert decoded == ["val2017/0.jpg"]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"version": 1, "files": {"a": 3}}'])
def test_a_damaged_record_is_ignored(tiny, cache, damage, settled):
    digest = prepare_coco(experiment(tiny)).digest
    (record,) = cache.rglob("*.json")
    record.write_text(damage)
    assert prepare_coco(experiment(tiny)).digest == digest


def test_an_unwritable_cache_costs_time_only(tiny, tmp_path, monkeypatch):
    digest = prepare_coco(experiment(tiny)).digest
    (tmp_path / "file").touch()
    monkeypatch.setenv("SDPOSE_CACHE", str(tmp_path / "file"))
    assert prepare_coco(experiment(tiny)).digest == digest


def test_progress_reaches_the_number_of_images(tiny):
    seen = []
    prepare_coco(experiment(tiny), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (5, 5)
