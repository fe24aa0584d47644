"""Every document has a shape, which is checked before it is written and when it is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sdpose.errors import UserError
from sdpose.registry import read_version, summarize
from sdpose.registry.channels import current, history, refusals
from sdpose.registry.documents import (
    MalformedDocumentError,
    Manifest,
    Move,
    NewManifest,
    check_metrics,
    decode,
    digest_of,
    document,
    figure,
    flaws,
    new_document,
    sealed,
)
from sdpose.registry.gc_marks import read_mark
from sdpose.registry.layout import manifest_key, pointer_key
from sdpose.registry.signatures import read_signature
from sdpose.storage import DamagedObjectError, FileStore

OLD = Path(__file__).with_name("written_by_f51444b")  # documents only: no weights
ORPHAN = "88f6811ab5d8fc6d3177f9b7609ae0fcebfda187e5046b62d38bb539e88b74d7"


@pytest.fixture
def old(tmp_path: Path) -> FileStore:
    shutil.copytree(OLD, tmp_path / "old")
    return FileStore(tmp_path / "old")


def test_a_registry_of_before_is_read(old: FileStore) -> None:
    assert [(row["version"], row["AP"]) for row in summarize(old, "tiny")] == [
        (1, 0.5),
        (2, 0.625),
        (3, 0.25),
    ]
    version = read_version(old, "tiny", 1)
    assert read_signature(old, version) is not None
    moves = [(r["generation"], r["version"]) for r in history(old, "tiny", "production")]
    assert moves == [(1, 1), (2, 2), (3, 1)]
    assert [record["version"] for record in refusals(old, "tiny", "production")] == [3]
    marked = read_mark(old, ORPHAN)
    assert marked is not None
    assert marked[1] is False


def test_figures_that_earlier_writers_let_through_are_none(old: FileStore) -> None:
    """NaN, true and Infinity: the versions can be read, and have no AP."""
    record = current(old, "poisoned", "production")
    assert record is not None
    assert record["version"] == 1
    for cached in (True, False):
        if not cached:
            old.delete("models/poisoned/index.json")
        assert [row["AP"] for row in summarize(old, "poisoned")] == [None, None, None]
    for number in (1, 2, 3):
        manifest = read_version(old, "poisoned", number).manifest
        assert figure(manifest["metrics"]) is None
        assert flaws(NewManifest, manifest)


def _manifest() -> dict[str, Any]:
    content = json.loads((OLD / manifest_key("tiny", 2)).read_text())
    return {key: value for key, value in content.items() if key != "sealed_sha256"}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("metrics", {"AP": float("nan")}, "NaN or Infinity"),
        ("metrics", {"AP": float("inf")}, "NaN or Infinity"),
        ("metrics", {"AP": 7.5}, "metrics.AP: 7.5: allowed are 0..1, and -1 for none"),
        ("metrics", {"AP": True}, "metrics.AP: True"),
        ("evaluation_settings", {"a": [float("nan")]}, "NaN or Infinity"),
        ("dataset_digest", 5, "dataset_digest: 5"),
        ("dataset_digest", "\x1b[2J", "dataset_digest: '\\x1b[2J'"),
        ("weights", {"sha256": "../x", "size": 1, "format": "safetensors"}, "weights.sha256"),
        ("version", 0, "version: 0"),
        ("registered_at", "yesterday", "registered_at: 'yesterday'"),
    ],
)
def test_what_is_malformed_is_not_written(key: str, value: Any, said: str) -> None:
    assert new_document(NewManifest, _manifest())
    with pytest.raises(UserError) as caught:
        new_document(NewManifest, _manifest() | {key: value})
    assert said in str(caught.value)
    assert "the manifest cannot be written" in str(caught.value)


def test_every_key_of_a_manifest_is_required() -> None:
    for key in _manifest():
        content = {name: value for name, value in _manifest().items() if name != key}
        with pytest.raises(MalformedDocumentError, match=f"malformed: {key} is missing"):
            decode(Manifest, document(sealed(content)), "file:///m.json")


def test_every_key_of_a_pointer_is_required(old: FileStore) -> None:
    content = json.loads(old.read(pointer_key("tiny", "production")))
    for key in content.keys() - {"sealed_sha256"}:
        less = {
            name: value for name, value in content.items() if name not in (key, "sealed_sha256")
        }
        old.put(pointer_key("tiny", "production"), document(sealed(less)))
        with pytest.raises(MalformedDocumentError, match=f"malformed: {key} is missing"):
            current(old, "tiny", "production")
    for key, value in {"at": 5, "gates": "x", "version": "2", "generation": True}.items():
        with pytest.raises(MalformedDocumentError, match=key):
            decode(Move, document(sealed(content | {key: value})), "file:///p.json")


def test_keys_of_a_newer_writer_are_kept() -> None:
    content = sealed(_manifest() | {"colour": "blue"})
    assert decode(Manifest, document(content), "file:///m.json")["colour"] == "blue"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'[["a", 1]]',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 5000,
    ],
)
def test_any_bytes_are_damage_and_not_a_traceback(data: bytes) -> None:
    for kind in (Manifest, Move):
        with pytest.raises(DamagedObjectError):
            decode(kind, data, "file:///x.json")


def test_a_pointer_of_another_channel_is_damage(old: FileStore) -> None:
    old.put(pointer_key("tiny", "candidate"), old.read(pointer_key("tiny", "production")))
    with pytest.raises(DamagedObjectError, match="it is a record of tiny, production"):
        current(old, "tiny", "candidate")


def test_metrics_are_figures() -> None:
    assert check_metrics({"AP": 1, "AP (M)": -1.0}, "m.json") == {"AP": 1.0, "AP (M)": -1.0}
    for value in (float("nan"), float("inf"), 7.5, -0.5, True, "0.5", None):
        with pytest.raises(UserError, match=r"m\.json: AP: .*; metrics are 0\.\.1, or -1 for none"):
            check_metrics({"AP": value}, "m.json")


def test_the_digest_of_before_is_the_digest_of_now(old: FileStore) -> None:
    content = json.loads(old.read(manifest_key("poisoned", 1)))
    seal = content.pop("sealed_sha256")
    assert digest_of(content) == seal
