"""Files that others have put where this program keeps its own: nothing is written through them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest

from sdpose.errors import UserError
from sdpose.files import atomic_file, open_own
from sdpose.locking import only_one
from sdpose.pack_store import RemotePack
from sdpose.storage import open_store
from sdpose.storage import ranged_download as ranges
from sdpose.storage.file_store import FileStore
from sdpose.storage.partial_download import partial_file

SECRET = b"a file of somebody else"
CONTENT = b"weights"


@pytest.fixture
def victim(tmp_path):
    path = tmp_path / "victim"
    path.write_bytes(SECRET)
    return path


def plant(kind, path, victim):
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "symlink":
        path.symlink_to(victim)
    elif kind == "dangling":
        path.symlink_to(victim.with_name("not there yet"))
    elif kind == "hard link":
        path.hardlink_to(victim)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "other user":
        path.write_bytes(b"")
        os.chown(path, 12345, 12345)


KINDS = ["symlink", "dangling", "hard link", "fifo", "folder"]
if os.geteuid() == 0:  # who else could give a file away?
    KINDS.append("other user")


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_partial_file_is_refused(tmp_path, victim, kind):
    """`pull` wrote the weights over the victim, and left a link to it as its result."""
    store = FileStore(tmp_path / "store")
    store.put("weights", CONTENT)
    target = tmp_path / "out/weights.safetensors"
    plant(kind, target.with_name(".weights.safetensors.part"), victim)
    with pytest.raises(UserError, match=r"\.part: it is .*; remove it and try again"):
        store.get_file("weights", target, hashlib.sha256(CONTENT).hexdigest())
    assert victim.read_bytes() == SECRET
    assert not victim.with_name("not there yet").exists()
    assert not os.path.lexists(target)


@pytest.mark.parametrize("kind", ["symlink", "dangling", "hard link"])
def test_what_is_known_of_a_partial_file_is_not_written_through_a_link(tmp_path, victim, kind):
    target = tmp_path / "out/large"
    plant(kind, target.with_name(".large.part.json"), victim)
    plant(kind, target.with_name("..large.part.json.tmp"), victim)

    class Zeros:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def read(self, amount):
            return bytes(amount)

    with partial_file(target) as part:
        ranges.fetch_ranges(
            lambda start, stop: Zeros(), 100, "tag", part.path, part.state, segment_bytes=10
        )
        part.finish()
    assert target.read_bytes() == bytes(100)
    assert victim.read_bytes() == SECRET
    assert not victim.with_name("not there yet").exists()


@pytest.mark.parametrize("kind", ["symlink", "hard link"])
def test_a_lock_empties_nothing(tmp_path, victim, kind):
    """`register` emptied what a link named .lock led to."""
    store = FileStore(tmp_path / "store")
    plant(kind, store.root / "models/m/.lock", victim)
    plant(kind, tmp_path / "fetch/lock", victim)
    calls = [lambda: store.put("models/m/index.json", b"{}"), lambda: _enter(tmp_path / "fetch")]
    for call in calls:
        if kind == "symlink":
            with pytest.raises(UserError, match="it is a symbolic link"):
                call()
        else:
            call()
    assert victim.read_bytes() == SECRET


def _enter(folder):
    with only_one(folder, otherwise="taken"):
        pass


def test_a_lock_is_shared_by_users(tmp_path):
    """In a team's registry somebody else may have made it."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    plant("other user", tmp_path / "store/models/.lock", tmp_path)
    open_store(tmp_path / "store").put("models/a", b"")


@pytest.mark.parametrize("kind", [*KINDS[:4], *KINDS[5:]])
def test_what_has_the_name_of_a_temporary_file_is_removed(tmp_path, victim, kind):
    plant(kind, tmp_path / "run/.latest.pth.tmp", victim)
    with atomic_file(tmp_path / "run/latest.pth") as file:
        file.write(CONTENT)
    assert (tmp_path / "run/latest.pth").read_bytes() == CONTENT
    assert not (tmp_path / "run/latest.pth").is_symlink()
    assert victim.read_bytes() == SECRET
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["latest.pth"]


def test_two_writers_at_once_do_not_mix_their_bytes(tmp_path):
    path = tmp_path / "latest.pth"

    def interrupted():
        with atomic_file(path) as file:
            file.write(b"one")
            with atomic_file(path) as other:
                other.write(b"other")

    with pytest.raises(UserError, match="another process writes it"):
        interrupted()
    assert path.read_bytes() == b"other"


def test_a_lock_of_a_pack_is_not_followed(tmp_path, victim, monkeypatch):
    monkeypatch.setenv("SDPOSE_CACHE", str(tmp_path / "cache"))
    store = FileStore(tmp_path / "packs/key")
    store.put("shard", CONTENT)
    pack = RemotePack((tmp_path / "packs/key").as_uri())
    plant("symlink", pack.folder / "locks/shard", victim)
    with pytest.raises(UserError, match="it is a symbolic link"):
        pack.fetch("shard")
    assert victim.read_bytes() == SECRET


def test_own_files_are_kept_from_child_processes(tmp_path):
    descriptor = open_own(tmp_path / "file")
    program = f"import os, sys\ntry: os.fstat({descriptor})\nexcept OSError: sys.exit(7)"
    result = subprocess.run([sys.executable, "-c", program], close_fds=False, check=False)
    os.close(descriptor)
    assert result.returncode == 7
