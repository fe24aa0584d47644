"""An object that gets another key is the same object, on every store."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import pytest

from sdpose.errors import UserError
from sdpose.storage import FileStore, ObjectNotFoundError, Store, s3_store

KEY, TARGET = "blobs/sha256/Ä b+c&d%20", "gc/trash/x/2026"


@pytest.mark.parametrize("size", [0, 100, 1_700_000])
def test_it_is_moved_whole(
    store: Store, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_store, "PART_BYTES", 1 << 18)  # of several parts
    source = tmp_path / "source"
    source.write_bytes(os.urandom(size))
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    store.put_file(source, KEY, sha256)
    store.put(TARGET, b"in its place")
    store.move(KEY, TARGET)
    assert not store.exists(KEY)
    assert list(store.list("")) == [TARGET]
    assert store.digest(TARGET) == sha256
    store.get_file(TARGET, tmp_path / "out")  # against the digest that was recorded
    assert (tmp_path / "out").read_bytes() == source.read_bytes()
    store.move(TARGET, KEY)
    assert list(store.list("")) == [KEY]
    assert store.read(KEY) == source.read_bytes()


def test_what_is_not_there_is_not_moved(store: Store) -> None:
    store.put(TARGET, b"stays")
    with pytest.raises(ObjectNotFoundError, match=r"2\.json does not exist"):
        store.move("models/2.json", TARGET)
    assert store.read(TARGET) == b"stays"
    with pytest.raises(UserError, match="cannot be stored"):
        store.move(TARGET, "../outside")


def test_a_folder_of_the_store_may_lie_on_another_disk(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not os.access(other, os.W_OK) or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system: /dev/shm is none")
    with tempfile.TemporaryDirectory(dir=other) as folder:
        (tmp_path / "blobs").symlink_to(folder)
        store = FileStore(tmp_path)
        store.put("blobs/x", b"weights")
        store.move("blobs/x", TARGET)
        assert list(store.list("")) == [TARGET]
        store.move(TARGET, "blobs/x")
        assert (store.read("blobs/x"), store.exists(TARGET)) == (b"weights", False)
