"""What every store promises: in a folder, on OpenStack Swift, on moto."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from sdpose.errors import UserError
from sdpose.storage import DamagedObjectError, ObjectNotFoundError, s3_store
from sdpose.storage.file_store import FileStore

LARGE = 1_700_000


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(s3_store, "SEGMENT_BYTES", 1 << 18)


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A file of several parts, and its digest."""
    monkeypatch.setattr(s3_store, "PART_BYTES", 1 << 18)
    path = tmp_path / "large"
    path.write_bytes(os.urandom(LARGE))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_small_objects(store):
    assert store.read_tagged("a/b.json") is None
    assert not store.exists("a/b.json")
    with pytest.raises(ObjectNotFoundError, match=r"a/b\.json does not exist"):
        store.read("a/b.json")
    store.put("a/b.json", b"one")
    assert store.exists("a/b.json")
    assert not store.exists("a")
    data, tag = store.read_tagged("a/b.json")
    assert data == b"one"
    store.put("a/b.json", b"two")
    data, another = store.read_tagged("a/b.json")
    assert data == b"two"
    assert another != tag
    store.put("empty", b"")
    assert store.read("empty") == b""
    store.delete("a/b.json")
    store.delete("a/b.json")
    assert not store.exists("a/b.json")


def test_listing_is_sorted_and_of_a_folder(store):
    keys = [f"m/{name}" for name in ("10.json", "2.json", "Ä b+c&d.json", "sub/1.json")]
    for key in [*keys, "mm/1.json", "n"]:
        store.put(key, b"x")
    assert list(store.list("m")) == sorted(keys)
    assert list(store.list("")) == sorted([*keys, "mm/1.json", "n"])
    assert list(store.list("nothing")) == []


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/.b", "a\n"])
def test_keys_stay_inside(store, key):
    with pytest.raises(UserError, match="cannot be stored"):
        store.put(key, b"x")


def test_files_come_back_as_they_went(store, large, tmp_path):
    source, sha256 = large
    for _ in range(2):  # the second call finds it there
        store.put_file(source, "blobs/large", sha256)
    assert store.digest("blobs/large") == sha256
    target = tmp_path / "new" / "target"
    store.get_file("blobs/large", target, sha256)
    assert target.read_bytes() == source.read_bytes()
    assert list(target.parent.iterdir()) == [target]
    (tmp_path / "none").write_bytes(b"")
    store.put_file(tmp_path / "none", "none", hashlib.sha256(b"").hexdigest())
    store.get_file("none", target)
    assert target.read_bytes() == b""


def test_a_file_that_is_not_what_was_said_is_refused(store, large):
    source, _ = large
    with pytest.raises(DamagedObjectError, match="changed while it was copied"):
        store.put_file(source, "blobs/large", "0" * 64)


def test_damage_in_the_store_is_seen_and_repaired(store, large, tmp_path, moto, swift):
    source, sha256 = large
    store.put_file(source, "large", sha256)
    _damage(store, "large", source.read_bytes(), moto, swift)
    target = tmp_path / "target"
    target.write_bytes(b"as it was")
    with pytest.raises(DamagedObjectError, match=f"expected {sha256}"):
        store.get_file("large", target, sha256)
    assert target.read_bytes() == b"as it was"
    assert store.digest("large") != sha256
    store.put_file(source, "large", sha256)
    store.get_file("large", target, sha256)
    assert target.read_bytes() == source.read_bytes()


def _damage(store, key, data, moto, swift):
    """Flips a bit where the store cannot see it."""
    wrong = bytearray(data)
    wrong[len(wrong) // 2] ^= 1
    if isinstance(store, FileStore):
        path = store.root / key
        path.chmod(0o644)
        path.write_bytes(wrong)
        return
    server = _server_of(store, moto, swift)
    place = {"Bucket": store.bucket, "Key": f"{store.prefix}/{key}"}
    metadata = server.client().head_object(**place)["Metadata"]
    server.client().put_object(**place, Body=bytes(wrong), Metadata=metadata)


def _server_of(store, *servers):
    url = None if isinstance(store, FileStore) else os.environ["AWS_ENDPOINT_URL_S3"]
    return next((server for server in servers if server.url == url), None)


def test_an_object_that_was_replaced_meanwhile_is_fetched_again(store, large, tmp_path):
    source, sha256 = large
    other = tmp_path / "other"
    other.write_bytes(os.urandom(LARGE))
    store.put_file(other, "large", hashlib.sha256(other.read_bytes()).hexdigest())
    target = tmp_path / "target"
    part = tmp_path / ".target.part"
    part.write_bytes(other.read_bytes())  # what an interrupted call has left, as it says
    state = tmp_path / ".target.part.json"
    segments = list(range(0, LARGE, 1 << 18))
    state.write_text(f'{{"size": {LARGE}, "tag": "x", "segment": {1 << 18}, "done": {segments}}}')
    store.put_file(source, "large", sha256)
    store.get_file("large", target, sha256)
    assert target.read_bytes() == source.read_bytes()
    assert not part.exists()
    assert not state.exists()


def test_of_many_writers_one_wins(strict_store):
    def create(number):
        return strict_store.put_if_absent("new", b"%d" % number)

    with ThreadPoolExecutor(16) as pool:
        winners = [n for n, won in enumerate(pool.map(create, range(16))) if won]
    assert len(winners) == 1
    assert strict_store.read("new") == b"%d" % winners[0]

    _, tag = strict_store.read_tagged("new")
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda n: strict_store.swap("new", b"%d" % n, tag), range(100, 116)))
    assert won.count(True) == 1
    assert strict_store.read("new") == b"%d" % (100 + won.index(True))
    assert not strict_store.swap("new", b"late", tag)
    assert not strict_store.swap("missing", b"x", tag)
    assert not strict_store.exists("missing")


def test_what_a_killed_upload_leaves_is_swept(store, moto, swift):
    if isinstance(store, FileStore):
        store.put("a/b", b"x")
        left = store.root / "a" / ".new-left"
        left.write_bytes(b"half")
        found = "a/.new-left"
    else:
        found = f"{store.prefix}/half"
        client = _server_of(store, moto, swift).client()
        client.create_multipart_upload(Bucket=store.bucket, Key=found)
    if _server_of(store, moto, swift) != moto:  # which says that all began in 2010
        assert store.sweep(timedelta(hours=1), dry_run=False) == ()
    later = timedelta(hours=-1)
    assert store.sweep(later) == (found,)
    assert store.sweep(later, dry_run=False) == (found,)
    assert store.sweep(later) == ()
