"""What was seen before is remembered; a record that others wrote, or that is damaged, is not
believed."""

from __future__ import annotations

import hashlib
import json
import os

import pytest
from packed import fast_experiment, prepare

from sdpose.errors import UserError
from sdpose.pack_store import local_copy, open_pack
from sdpose.prepare.verify import CheckedFiles

CONTENT = b"content"
RIGHT = hashlib.sha256(CONTENT).hexdigest()
FORGED = "0" * 64


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("SDPOSE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "data/file"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    os.utime(path, ns=(10**18, 10**18))
    _wait_a_tick(path)
    files = CheckedFiles(path.parent)
    assert files.file("file").sha256 == RIGHT
    files.save()
    return files


def _wait_a_tick(path):
    """Until a change of the file would show another ctime, or nothing is remembered."""
    probe = path.with_name("probe")
    while True:
        probe.write_bytes(b"")
        if probe.stat().st_ctime_ns - path.stat().st_ctime_ns > 200_000_000:
            break
    probe.unlink()


def rewrite(files, change):
    document = json.loads(files.record_path.read_text())
    changed = change(document)
    files.record_path.write_text(json.dumps(document if changed is None else changed))


def forge(document):
    document["files"]["file"][1][0] = FORGED


def seen(files):
    return CheckedFiles(files.root).file("file").sha256


def test_a_record_of_this_user_saves_the_reading(dataset):
    rewrite(dataset, forge)
    assert seen(dataset) == FORGED  # so it was looked up; it is this user's own
    assert dataset.record_path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_record_that_others_can_write_is_not_believed(dataset, capsys, mode):
    rewrite(dataset, forge)
    dataset.record_path.chmod(mode)
    assert seen(dataset) == RIGHT
    assert "other users can write to it" in capsys.readouterr().err


def test_a_record_of_another_user_is_not_believed(dataset, capsys):
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    rewrite(dataset, forge)
    os.chown(dataset.record_path, 12345, 12345)
    assert seen(dataset) == RIGHT
    said = capsys.readouterr().err
    assert "it belongs to another user (uid 12345)" in said
    assert "set SDPOSE_CACHE to a folder of your own" in said


def test_a_link_to_a_record_is_not_believed(dataset, tmp_path):
    rewrite(dataset, forge)
    dataset.record_path.rename(tmp_path / "elsewhere")
    dataset.record_path.symlink_to(tmp_path / "elsewhere")
    assert seen(dataset) == RIGHT


def test_a_record_of_another_dataset_is_not_believed(dataset):
    rewrite(dataset, lambda document: document.update(root="/other") or forge(document))
    assert seen(dataset) == RIGHT


DAMAGE = {
    "a number": lambda d: d["files"].update(file=5),
    "short": lambda d: d["files"].update(file=[d["files"]["file"][0], ["a"]]),
    "no digest": lambda d: d["files"]["file"][1].__setitem__(0, "xyz"),
    "null": lambda d: d["files"]["file"][1].__setitem__(3, None),
    "empty entry": lambda d: d["files"].update(file=[]),
    "a list": lambda d: [],
    "nothing": lambda d: {},
    "files a list": lambda d: d.update(files=[1]),
    "other version": lambda d: d.update(version=99),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_is_made_again(dataset, damage):
    rewrite(dataset, DAMAGE[damage])
    files = CheckedFiles(dataset.root)
    assert files.file("file").sha256 == RIGHT
    files.save()
    rewrite(dataset, forge)
    assert seen(dataset) == FORGED  # it is there again


@pytest.mark.parametrize("text", [b"", b"\xff", b"{", b"[" * 100_000, b"NaN"])
def test_a_record_of_any_bytes(dataset, text):
    dataset.record_path.write_bytes(text)
    assert seen(dataset) == RIGHT


@pytest.mark.parametrize("kind", ["other user", "everybody"])
def test_a_pack_that_others_can_change_is_not_used(coco_mini, tmp_path, monkeypatch, kind):
    if kind == "other user" and os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    monkeypatch.setenv("SDPOSE_CACHE", str(tmp_path / "cache"))
    packs = (tmp_path / "packs").as_uri()
    location = prepare(fast_experiment(coco_mini, packs)).pack
    assert len(open_pack(location)) > 0
    folder = local_copy(location.rsplit("/", 1)[-1])
    if kind == "everybody":
        folder.chmod(0o777)
    else:
        os.chown(folder, 12345, 12345)
    with pytest.raises(UserError, match=r"is not used: .*; set SDPOSE_CACHE to a folder"):
        open_pack(location)
