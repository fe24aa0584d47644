"""What storing a file in a folder costs, and what is said if it cannot be read."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from sdpose.errors import UserError
from sdpose.storage.file_store import FileStore

SIZE = 24 << 20
CHUNKS = 3 << 20  # what is read before a difference is seen, and by everything else


def bytes_read():
    """By this process, from files of any kind."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


@pytest.fixture
def put(tmp_path):
    store = FileStore(tmp_path / "store")

    def put(content):
        source = tmp_path / "latest.pth"
        source.write_bytes(content)
        before = bytes_read()
        store.put_file(source, "latest.pth", hashlib.sha256(content).hexdigest())
        assert (tmp_path / "store/latest.pth").read_bytes() == content
        return bytes_read() - before - SIZE  # less the comparison of this test

    return put


def test_an_object_that_is_replaced_is_not_read(put):
    """latest.pth has the same size at every save; the old one and the new one were digested."""
    assert put(os.urandom(SIZE)) < SIZE + CHUNKS
    assert put(os.urandom(SIZE)) < SIZE + CHUNKS


def test_an_object_that_is_there_is_not_written_again(put, tmp_path):
    content = os.urandom(SIZE)
    put(content)
    before = (tmp_path / "store/latest.pth").stat()
    assert put(content) < 2 * SIZE + CHUNKS
    after = (tmp_path / "store/latest.pth").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_source_that_cannot_be_read_is_named(tmp_path):
    store = FileStore(tmp_path / "store")
    with pytest.raises(UserError, match=r"cannot read /nowhere/x\.bin: No such file") as caught:
        store.put_file(Path("/nowhere/x.bin"), "x", "0" * 64)
    assert "cannot write" not in str(caught.value)
    with pytest.raises(UserError, match=r"cannot read .*: Is a directory"):
        store.put_file(tmp_path, "x", "0" * 64)
    assert not (tmp_path / "store").exists()


def test_damaged_bytes_of_the_same_size_are_replaced(put, tmp_path):
    content = os.urandom(SIZE)
    put(content)
    path = tmp_path / "store/latest.pth"
    path.chmod(0o644)
    with path.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        file.write(bytes([content[-1] ^ 1]))
    put(content)
