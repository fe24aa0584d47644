"""Packs that were killed, and damaged before they were continued: they heal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from packed import KILLED_AFTER_15, fast_experiment, prepare

from sdpose.data.pack.layout import MANIFEST
from sdpose.pack_store import open_pack
from sdpose.prepare import pack_builder as build

Decoded = list[str]


@pytest.fixture(autouse=True)
def small_shards(tmp_path, monkeypatch):
    """One photo a shard, and a cache that knows nothing."""
    monkeypatch.setattr(build, "SHARD_BYTES", 1)
    monkeypatch.setenv("SDPOSE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def decoded(monkeypatch) -> Decoded:
    """Names of the photos that were decoded to be packed."""
    names: Decoded = []

    def decode(data, name):
        names.append(name)
        return decode_image(data, name)

    decode_image = build.decode_image
    monkeypatch.setattr(build, "decode_image", decode)
    return names


@pytest.fixture
def killed(coco_mini: Path, tmp_path: Path) -> Path:
    """The folder of a build that was killed when half of it was there."""
    command = [sys.executable, "-c", KILLED_AFTER_15, coco_mini, tmp_path / "packs"]
    ended = subprocess.run(command, cwd=Path(__file__).parent, timeout=600, check=False)
    assert ended.returncode == 9
    (folder,) = (tmp_path / "packs").iterdir()
    return folder


def assert_whole(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert names == {MANIFEST, *manifest["sha256"]}
    pack = open_pack(str(folder))
    for image in range(len(pack.images)):
        _, width, height, _ = pack.images[image].tolist()
        pack.read(np.array([image]), np.array([[0, 0, width, height]]))


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("shard-*.bin"))


def test_shards_that_were_damaged_after_the_kill(
    coco_mini, tmp_path, killed: Path, decoded: Decoded, capsys
) -> None:
    there = shards(killed)
    good = [path.read_bytes() for path in there]
    there[0].write_bytes(good[0][:1000])  # as a half-restored backup leaves it
    there[1].write_bytes(good[1][:500] + bytes([good[1][500] ^ 1]) + good[1][501:])
    there[2].unlink()
    prepare(fast_experiment(coco_mini, tmp_path / "packs"))
    assert "3 files of" in capsys.readouterr().err
    assert [path.read_bytes() for path in there] == good
    left = 28 - len(there)
    assert len(decoded) == left + 3, "exactly the bad ones, and what was not there"
    assert_whole(killed)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-30],
        lambda text: text[:100] + "\n" + text[100:],
        lambda text: "5\n[]\n{}\nnull\n" + '["../../x", "y"]\n["shard-00000.bin", 5]\n' + text,
        lambda text: "[" * 100_000 + "\n" + text,
        lambda text: "",
    ],
    ids=["torn", "broken", "odd", "deep", "empty"],
)
def test_a_damaged_journal(
    coco_mini, tmp_path, killed: Path, damage: Callable[[str], str], decoded: Decoded
) -> None:
    journal = killed / "building.jsonl"
    journal.write_text(damage(journal.read_text()))
    prepare(fast_experiment(coco_mini, tmp_path / "packs"))
    assert 28 - len(shards(killed)) <= len(decoded) <= 28
    assert_whole(killed)


def test_a_disk_that_damages_what_is_written_is_told_and_heals(
    coco_mini, tmp_path, monkeypatch, decoded: Decoded
) -> None:
    write = build._Builder._write

    def write_badly(self, name, data):
        sha256 = write(self, name, data)
        if name == "shard-00004.bin":
            os.truncate(self.folder / name, 10)
        return sha256

    with monkeypatch.context() as patch:
        patch.setattr(build._Builder, "_write", write_badly)
        with pytest.raises(Exception, match="cannot be read back: a faulty disk"):
            prepare(fast_experiment(coco_mini, tmp_path / "packs"))
    decoded.clear()
    location = prepare(fast_experiment(coco_mini, tmp_path / "packs")).pack
    assert len(decoded) == 1
    assert_whole(Path(str(location)))


@pytest.mark.parametrize(
    "content", [b"", b"{bad", b"[]", b'{"format": "sdpose-pack/1", "sha256": 5}', b"[" * 100_000]
)
def test_a_damaged_manifest(coco_mini, tmp_path, content: bytes, capsys) -> None:
    experiment = fast_experiment(coco_mini, tmp_path / "packs")
    folder = Path(str(prepare(experiment).pack))
    (folder / MANIFEST).write_bytes(content)
    prepare(experiment)
    assert "is damaged: the pack is made again" in capsys.readouterr().err
    assert_whole(folder)


def test_a_damaged_manifest_in_a_store_and_in_its_copy(coco_mini, tmp_path) -> None:
    store = tmp_path / "store"
    experiment = fast_experiment(coco_mini, store.as_uri())
    location = str(prepare(experiment).pack)
    key = location.rsplit("/", 1)[-1]
    good = (store / key / MANIFEST).read_bytes()
    for manifest in (store / key / MANIFEST, tmp_path / "cache/packs" / key / MANIFEST):
        manifest.chmod(0o644)
        manifest.write_bytes(b"{bad")
    prepare(experiment)
    assert (store / key / MANIFEST).read_bytes() == good
    (tmp_path / "cache/packs" / key / MANIFEST).write_bytes(b"{bad")
    assert len(open_pack(location)) > 0


def test_a_copy_that_is_cut_off_is_fetched_again(coco_mini, tmp_path) -> None:
    store = tmp_path / "store"
    location = str(prepare(fast_experiment(coco_mini, store.as_uri())).pack)
    copy = tmp_path / "cache/packs" / location.rsplit("/", 1)[-1] / "shard-00003.bin"
    good = copy.read_bytes()
    copy.chmod(0o644)
    copy.write_bytes(good[:1000])
    pack = open_pack(location)
    _, width, height, _ = pack.images[3].tolist()
    pixels, _ = pack.read(np.array([3]), np.array([[0, 0, width, height]]))
    assert pixels.tobytes() == good
    assert copy.read_bytes() == good
