"""The training pack: made once, whole or not at all, mended, and fetched shard by shard."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from packed import KILLED_AFTER_15, fast_experiment, prepare

from sdpose.data.coco import load_annotations
from sdpose.data.images import read_image
from sdpose.data.loader import build_train_loader
from sdpose.data.pack.layout import MANIFEST
from sdpose.errors import UserError
from sdpose.pack_store import open_pack
from sdpose.prepare import pack_builder as build


@pytest.fixture(autouse=True)
def small_shards(tmp_path, monkeypatch):
    """One photo a shard, and a cache that knows nothing."""
    monkeypatch.setattr(build, "SHARD_BYTES", 1)
    monkeypatch.setenv("SDPOSE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def decoded(monkeypatch):
    """Names of the photos that were decoded to be packed."""
    names: list[str] = []

    def decode(data, name):
        names.append(name)
        return decode_image(data, name)

    decode_image = build.decode_image
    monkeypatch.setattr(build, "decode_image", decode)
    return names


def test_a_pack_holds_every_photo_with_a_person_to_train_on(coco_mini, tmp_path, capsys):
    location = prepare(fast_experiment(coco_mini, tmp_path / "packs")).pack
    assert "packing 28 photos" in capsys.readouterr().err
    annotations = load_annotations(coco_mini / "annotations/person_keypoints_train2017.json")
    persons, pack = annotations.persons(), open_pack(location)
    packed = pack.read_persons(np.arange(len(pack)))
    for name in ("image_id", "key", "boxes_xywh", "joints", "visible"):
        np.testing.assert_array_equal(getattr(packed, name), getattr(persons, name))
    for row in range(0, len(persons), 5):
        name = annotations.file_names[persons.image_index[row]]
        photo_HW3 = read_image(coco_mini / "train2017" / name)
        height, width, _ = photo_HW3.shape
        image = int(packed.image_index[row])
        region = np.array([[7, 3, width - 9, height - 5], [0, 0, width, height]])
        pixels_B, offsets_N = pack.read(np.array([image, image]), region)
        expected = [photo_HW3[3 : height - 2, 7 : width - 2], photo_HW3]
        np.testing.assert_array_equal(pixels_B, np.concatenate([p.ravel() for p in expected]))
        assert offsets_N.tolist() == [0, expected[0].size]


def test_a_pack_that_is_there_is_used(coco_mini, tmp_path, decoded):
    experiment = fast_experiment(coco_mini, tmp_path / "packs")
    first = prepare(experiment)
    assert len(decoded) == 28
    assert prepare(experiment) == first
    assert len(decoded) == 28


def test_a_killed_build_is_continued(coco_mini, tmp_path, decoded):
    tests = Path(__file__).parent
    command = [sys.executable, "-c", KILLED_AFTER_15, coco_mini, tmp_path / "packs"]
    killed = subprocess.run(command, cwd=tests, timeout=250, check=False)
    assert killed.returncode == 9
    (folder,) = (tmp_path / "packs").iterdir()
    assert not (folder / MANIFEST).exists()
    with pytest.raises(UserError, match=r"no pack in .* run prepare_coco"):
        open_pack(str(folder))

    location = prepare(fast_experiment(coco_mini, tmp_path / "packs")).pack
    assert location == str(folder)
    assert 14 <= len(decoded) <= 18  # of 28: those that were under way start again
    assert {path.name for path in folder.iterdir()} == {
        ".lock",
        MANIFEST,
        *json.loads((folder / MANIFEST).read_text())["sha256"],
    }


def test_damaged_shards_are_made_again(coco_mini, tmp_path, decoded, capsys):
    experiment = fast_experiment(coco_mini, tmp_path / "packs")
    folder = Path(prepare(experiment).pack)
    flipped, cut = folder / "shard-00003.bin", folder / "shard-00007.bin"
    good = {path: path.read_bytes() for path in (flipped, cut)}
    flipped.write_bytes(
        good[flipped][:1000] + bytes([good[flipped][1000] ^ 1]) + good[flipped][1001:]
    )
    cut.write_bytes(good[cut][:-1])
    decoded.clear()
    prepare(experiment)
    assert "2 files" in capsys.readouterr().err
    assert len(decoded) == 2
    assert {path: path.read_bytes() for path in good} == good


def test_a_full_disk_and_a_read_only_folder_are_user_errors(coco_mini, tmp_path, monkeypatch):
    usage = build.shutil.disk_usage(tmp_path)._replace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr(build.shutil, "disk_usage", lambda _: usage)
        with pytest.raises(UserError, match=r"needs 0\.0 GB(.|\n)*data\.pack_dir"):
            prepare(fast_experiment(coco_mini, tmp_path / "packs"))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write to .*data\.pack_dir"):
        prepare(fast_experiment(coco_mini, tmp_path / "file"))


@pytest.fixture(params=["file", "moto"])
def objects(request, tmp_path, monkeypatch):
    """An empty store's URI, and take_away(key): its object, gone until the returned is called."""
    if request.param == "file":
        root = tmp_path / "store"

        def rename(key):
            path = root / key
            hidden = path.with_suffix(".hidden")
            path.rename(hidden)
            return lambda: hidden.rename(path)

        return root.as_uri(), rename
    server = request.getfixturevalue("moto")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    client, bucket = server.client(), server.new_bucket()

    def delete(key):
        found = client.get_object(Bucket=bucket, Key=f"packs/{key}")
        body, metadata = found["Body"].read(), found["Metadata"]
        client.delete_object(Bucket=bucket, Key=f"packs/{key}")
        return lambda: client.put_object(
            Bucket=bucket, Key=f"packs/{key}", Body=body, Metadata=metadata
        )

    return f"s3://{bucket}/packs", delete


def test_training_begins_with_the_shards_that_are_here(coco_mini, tmp_path, monkeypatch, objects):
    """Other machines: the first's store holds just the first batch's shards yet; the second's
    loader processes and the fetching threads beside them ask for the same shards at once."""
    uri, take_away = objects
    experiment = fast_experiment(coco_mini, uri)
    location = prepare(experiment).pack
    assert location.startswith(uri)
    key = location.rsplit("/", 1)[-1]
    local = tmp_path / "cache/packs" / key
    reference = build_train_loader(experiment, pack=open_pack(str(local)))
    expected = list(reference.epoch(1))

    monkeypatch.setenv("SDPOSE_CACHE", str(tmp_path / "another"))
    needed = reference._samples.pack.read_persons(reference._requests[0][1]).image_index
    first_names = {f"shard-{image:05}.bin" for image in needed}
    hidden = [p.name for p in local.glob("shard-*.bin") if p.name not in first_names]
    assert hidden
    bring_back = [take_away(f"{key}/{name}") for name in hidden]
    with contextlib.closing(build_train_loader(experiment, pack=open_pack(location))) as loader:
        batches = loader.epoch(1)
        first = next(batches)
        here = {path.name for path in (tmp_path / "another/packs" / key).glob("shard-*.bin")}
        assert here == first_names
        for one in bring_back:
            one()
        assert_same([first, *batches], expected)

    monkeypatch.setenv("SDPOSE_CACHE", str(tmp_path / "third"))
    helped = fast_experiment(coco_mini, uri, workers=2)
    with contextlib.closing(build_train_loader(helped, pack=open_pack(location))) as loader:
        assert_same(list(loader.epoch(1)), expected)


def assert_same(found, expected):
    assert len(found) == len(expected)
    for batch, other in zip(found, expected, strict=True):
        assert all(batch[name].equal(other[name]) for name in other)
