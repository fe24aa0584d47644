"""verify names whatever is damaged; gc removes only what nothing refers to."""

from __future__ import annotations

import os
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from interrupted import Interrupted
from made import Register

from sdpose.files import sha256_of_file
from sdpose.registry import gc_marks, pull, read_version, resolve
from sdpose.registry.channels import history, set_channel
from sdpose.registry.gc import gc
from sdpose.registry.layout import SEEN, blob_key, pointer_key
from sdpose.registry.promote import promote
from sdpose.registry.references import DisagreementError
from sdpose.registry.verify import verify
from sdpose.storage import DamagedObjectError, FileStore, Store

NOW = timedelta(0)


def _flip_a_bit(store: Store, key: str) -> None:
    data = bytearray(store.read(key))
    data[len(data) // 2] ^= 1
    store.put(key, bytes(data))


def test_every_damaged_object_is_named(store: Store, register: Register, tmp_path: Path) -> None:
    first, second = register(1), register(2)
    orphan = tmp_path / "orphan"
    orphan.write_bytes(b"of a registration that was killed")
    store.put_file(orphan, blob_key(sha256_of_file(orphan)), sha256_of_file(orphan))
    for version in (1, 2, 1):
        set_channel(
            store, read_version(store, "tiny", version), "staging", action="promote", approver="k"
        )
    refused = set_channel(
        *(store, second, "staging"),
        **{"action": "promote", "approver": "k"},
        gates=lambda _: [{"gate": "never", "passed": False, "reason": "no"}],
    )
    assert not refused["allowed"]
    assert verify(store) == []

    keys = [key for key in store.list("") if not key.startswith("gc/")]
    assert len(keys) == 3 + 2 + 1 + 1 + 3 + 1  # blobs, manifests, index, pointer, history, refused
    for key in keys:
        _flip_a_bit(store, key)
    named = {problem.uri for problem in verify(store)}
    assert {store.uri(key) for key in keys} <= named
    with pytest.raises(DamagedObjectError):
        resolve(store, "tiny@1")
    with pytest.raises(DamagedObjectError):
        resolve(store, "tiny@staging")
    with pytest.raises(DamagedObjectError):
        gc(store, dry_run=False)  # what cannot be read could name anything
    for key in keys:
        _flip_a_bit(store, key)
    assert verify(store) == []

    target = tmp_path / "out.safetensors"
    _flip_a_bit(store, blob_key(first.sha256))
    (problem,) = verify(store)
    assert problem.uri == store.uri(blob_key(first.sha256))
    assert "the weights of tiny version 1" in problem.what
    with pytest.raises(DamagedObjectError):
        pull(store, "tiny@1", target)
    assert not target.exists()
    assert register(1).version == 1  # registering again puts the right bytes there
    assert verify(store) == []

    store.delete(blob_key(first.sha256))
    store.delete("models/tiny/channels/staging/history/00000002.json")
    store.delete("models/tiny/versions/2.json")
    store.put("models/tiny/versions/notes.json", b"{}")
    said = sorted(problem.what for problem in verify(store))
    assert [what.split(":")[0] for what in said] == [
        "it does not belong here",
        "the history is not a whole sequence",
        "the manifest is missing",
        "the weights of tiny version 1 are missing",
    ]


def test_gc_keeps_what_a_version_names(store: Store, register: Register, tmp_path: Path) -> None:
    version = register(1)
    orphan = tmp_path / "orphan"
    orphan.write_bytes(b"of a registration that was killed")
    sha256 = sha256_of_file(orphan)
    store.put_file(orphan, blob_key(sha256), sha256)
    assert gc(store).marked == (sha256,)
    assert not list(store.list("gc"))  # a dry run
    assert gc(store, dry_run=False).marked == (sha256,)
    assert gc(store, dry_run=False).waiting == (sha256,)
    done = gc(store, dry_run=False, grace=timedelta(0))
    assert (done.trashed, done.deleted) == ((sha256,), ())
    assert [key.rsplit("/")[-1] for key in store.list("blobs")] == [version.sha256]
    assert gc(store, dry_run=False).deleted == ()
    assert len(list(store.list("gc/trash"))) == 1
    assert gc(store, dry_run=False, grace=timedelta(0)).deleted == (sha256,)
    assert list(store.list("gc")) == ["gc/seen.json"]


def test_registering_takes_a_mark_back(store: Store, register: Register, tmp_path: Path) -> None:
    version = register(1)
    key = f"models/tiny/versions/{version.version}.json"
    store.delete(key)
    store.delete("models/tiny/index.json")
    assert gc(store, dry_run=False).marked == (version.sha256,)
    register(1)
    assert gc(store, dry_run=False, grace=timedelta(0)).trashed == ()
    assert verify(store) == []


def test_gc_keeps_what_only_a_pointer_or_its_history_names(
    store: Store, register: Register
) -> None:
    for seed in (1, 2):
        register(seed, ap=seed / 10)
        promote(store, "tiny", seed, "production", approver="kim")
    for key in ("versions/1.json", "versions/2.json", "index.json"):
        store.delete(f"models/tiny/{key}")  # by hand
    for _ in range(2):
        with pytest.raises(DisagreementError, match="tiny version 1: the manifest is missing, and"):
            gc(store, dry_run=False, grace=NOW)
    assert len(list(store.list("blobs"))) == 2
    assert not list(store.list("gc"))


def test_promotions_meanwhile_are_no_damage(store: Store, register: Register) -> None:
    """Two at every operation of `history` and of `verify`."""
    versions = [register(seed) for seed in (1, 2)]

    def meanwhile() -> None:
        for version in versions:
            set_channel(store, version, "staging", action="promote", approver="kim")

    meanwhile()
    for n in range(1, 13):
        interrupted: Any = Interrupted(store, n, meanwhile)
        generations = [record["generation"] for record in history(interrupted, "tiny", "staging")]
        assert generations == list(range(1, len(generations) + 1))
        interrupted = Interrupted(store, n, meanwhile)
        assert verify(interrupted) == []
        assert interrupted.left <= 0


def test_an_old_pointer_is_damage(store: Store, register: Register) -> None:
    key = pointer_key("tiny", "staging")
    for seed in (1, 2):
        set_channel(store, register(seed), "staging", action="promote", approver="kim")
        if seed == 1:
            old = store.read(key)
    set_channel(store, read_version(store, "tiny", 1), "staging", action="promote", approver="kim")
    assert verify(store) == []
    store.put(key, old)  # from a backup
    (problem,) = verify(store)
    assert (problem.uri, problem.what) == (store.uri(key), "it is older than its history")


def test_a_registration_during_gc_keeps_its_weights(
    store: Store, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every operation of the gc that deletes these very weights."""
    n = 0
    while True:
        n += 1
        version = register(1)
        store.delete("models/tiny/versions/1.json")
        store.delete("models/tiny/index.json")
        store.delete(SEEN)
        assert gc(store, dry_run=False).marked == (version.sha256,)
        other = threading.Thread(target=register, args=(1,), daemon=True)

        def meanwhile(other: threading.Thread = other) -> None:
            other.start()
            other.join(0.7)  # no longer: it may wait for this gc to end

        interrupted: Any = Interrupted(store, n, meanwhile)
        gc(interrupted, dry_run=False, grace=NOW)
        if interrupted.left > 0:
            break
        other.join(60)
        assert not other.is_alive()
        assert verify(store) == [], n
        assert read_version(store, "tiny", 1).sha256 == version.sha256
        done = gc(store, dry_run=False, grace=NOW)
        assert (done.trashed, done.restored) == ((), ())
    assert n > 8
    assert not store.exists(blob_key(version.sha256))  # nobody came in between


def test_gc_leaves_what_another_writer_has_begun(tmp_path: Path) -> None:
    begun = tmp_path / "models/tiny/versions/.new-1"
    begun.parent.mkdir(parents=True)
    begun.touch()
    assert gc(FileStore(tmp_path), dry_run=False, grace=NOW).leftovers == ()
    os.utime(begun, (0, 0))
    assert gc(FileStore(tmp_path), dry_run=False, grace=NOW).leftovers
    assert not begun.exists()


def test_a_gc_that_died_while_deleting_holds_up_nobody(
    store: Store, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = register(1)
    store.delete("models/tiny/versions/1.json")
    store.delete("models/tiny/index.json")
    gc(store, dry_run=False)

    def killed() -> None:
        raise KeyboardInterrupt

    for n in range(1, 100):
        with pytest.raises(KeyboardInterrupt):
            gc(Interrupted(store, n, killed), dry_run=False, grace=NOW)  # type: ignore[arg-type]
        if any(b'"deleting"' in store.read(key) for key in store.list("gc/marks")):
            break
    monkeypatch.setattr(gc_marks, "PATIENCE_WITH_GC", 0.0)
    assert register(1).sha256 == version.sha256
    assert verify(store) == []
    assert not list(store.list("gc/marks"))
