"""Addresses as people type them: each names what it says, or is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdpose.errors import UserError
from sdpose.storage import FileStore, S3Store, open_store
from sdpose.tools.coco_fetch.sources import FolderSource, S3Source, open_source

BUCKETS = {
    "s3://bkt": "s3://bkt/",
    "s3://bkt/": "s3://bkt/",
    "s3://bkt/team#1/reg": "s3://bkt/team#1/reg",
    "s3://bkt/reg?versionId=3": "s3://bkt/reg?versionId=3",
    "s3://bkt/a b/한글": "s3://bkt/a b/한글",
    "s3://bkt/100%25": "s3://bkt/100%25",
    "S3://bkt/upper/": "s3://bkt/upper",
    " s3://bkt/sp\n": "s3://bkt/sp",
}
FOLDERS = {
    "reg": "reg",
    "./s3:": "s3:",
    "/w/f#1": "/w/f#1",
    "/w/what?": "/w/what?",
    "/w/100%25": "/w/100%25",
    "/w//x": "/w/x",
    "with space/한글 😀": "with space/한글 😀",
    "file:///w/f#1": "/w/f#1",
    "file:///w/f?x=1": "/w/f?x=1",
    "file:///w/a%20b%23": "/w/a b#",
    "file://localhost/w": "/w",
    "FILE:///w": "/w",
}
REFUSED = {
    "file://rel/reg": "'rel' is not this machine.*file:///data",
    "file://~/reg": "'~' is not this machine",
    "file://server/share": "'server' is not this machine",
    "file://": "is not this machine",
    "s3//bkt/x": r"looks like an address and is none.*\./s3//bkt/x",
    "s3:/bkt/one": "looks like an address and is none",
    "file:/w/x": "looks like an address and is none",
    "http//host/x": "looks like an address and is none",
    "~nobody-of-that-name/reg": "no home folder of that user",
    "s3://": "needs a bucket",
    "s3:///x": "needs a bucket",
    "s3://bkt/../z": "empty parts, '.' or '..'",
    "s3://bkt//x//y": "empty parts, '.' or '..'",
    "s3://b?k=1/x": r"'b\?k=1' is no bucket's name",
    "s3://bkt/a\nb": "control characters",
    "gs://bkt/x": "gs:// is no store",
    "https://bkt.s3.amazonaws.com/x": "https:// is no store",
    "a\0b": "NUL",
    "": "empty address",
    " ": "empty address",
}


@pytest.mark.parametrize("address", BUCKETS)
def test_a_bucket_and_every_character_of_the_prefix(address):
    store = open_store(address)
    assert isinstance(store, S3Store)
    assert f"s3://{store.bucket}/{store.prefix}" == BUCKETS[address]


@pytest.mark.parametrize("address", FOLDERS)
def test_a_folder(address):
    store = open_store(address)
    assert isinstance(store, FileStore)
    assert store.root == Path(FOLDERS[address])


def test_a_home_folder(monkeypatch, tmp_path):
    """No shell expands --registry=~/reg."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_store("~/reg").root == tmp_path / "reg"
    assert open_store("~").root == tmp_path
    assert open_store("./~").root == Path("~")


@pytest.mark.parametrize("address", REFUSED)
def test_what_is_no_address_is_refused(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=REFUSED[address]):
        open_store(address).put("a", b"")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "address", [a for a in REFUSED if not a.startswith(("http", "gs", "~", "a"))]
)
def test_nor_can_data_be_fetched_from_there(address):
    with pytest.raises(UserError, match=REFUSED[address]):
        open_source(address)


def test_the_place_of_a_store_is_its_address(tmp_path):
    """What `uri` says, `open_store` finds."""
    root = tmp_path / "a b#1?x=2%20/한글"
    store = open_store(root)
    store.put("m/1.json", b"{}")
    again = open_store(store.uri("m").removesuffix("/m"))
    assert again.read("m/1.json") == b"{}"


def test_keys_with_sharps_and_question_marks_on_a_server(connect, moto):
    """s3://bucket/team#1/reg wrote to s3://bucket/team."""
    connect(moto)
    address = f"s3://{moto.bucket}/team#1/what?x=1"
    store = open_store(address)
    store.put("m/a.json", b"{}")
    keys = [
        entry["Key"]
        for entry in moto.client().list_objects_v2(Bucket=moto.bucket, Prefix="team")["Contents"]
    ]
    assert keys == ["team#1/what?x=1/m/a.json"]
    assert list(open_store(address).list("")) == ["m/a.json"]
    source = open_source(address)
    assert isinstance(source, S3Source)
    assert source.find("m/a.json").size == 2


def test_a_source_folder_with_a_sharp(tmp_path):
    folder = tmp_path / "coco#1"
    folder.mkdir()
    for address in (str(folder), f"file://{folder}"):
        source = open_source(address)
        assert isinstance(source, FolderSource)
        assert source.folder == folder


@pytest.mark.parametrize("address", ["http://host/coco?list=1", "https://host/coco#val"])
def test_a_mirror_is_a_folder_of_a_server(address):
    with pytest.raises(UserError, match=r"a mirror's address has no '\?' and no '#'"):
        open_source(address)
