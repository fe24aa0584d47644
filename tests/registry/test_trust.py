"""Signed pointers: who can write to the store, and has no key, moves no channel of a reader."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made import Register

from sdpose.errors import UserError
from sdpose.registry import pull, read_version
from sdpose.registry.channels import current
from sdpose.registry.channels import set_channel as make_move
from sdpose.registry.documents import SEAL, document, sealed
from sdpose.registry.layout import history_key, pointer_key
from sdpose.registry.promote import promote, rollback
from sdpose.registry.rollback_protection import OlderPointerError
from sdpose.registry.signatures import SignatureError, Signer, Verifier
from sdpose.registry.verify import verify
from sdpose.storage import DamagedObjectError, Store

CHANNEL = "production"
POINTER = pointer_key("tiny", CHANNEL)

pytestmark = pytest.mark.usefixtures("cache")
only_files = pytest.mark.parametrize("root", ["file"], indirect=True)


def test_unsigned_forged_and_older_pointers_are_refused(
    store: Store,
    register: Register,
    move: Callable[..., Any],
    signer: Signer,
    verifier: Verifier,
    tmp_path: Path,
) -> None:
    for seed in (1, 2):
        register(seed, ap=0.5 + seed / 10, signer=signer)
    out = tmp_path / "out.safetensors"
    first = move(1)
    old = store.read(POINTER)
    move(2)
    new = store.read(POINTER)
    assert pull(store, "tiny@production", out, verifier).version.version == 2
    assert verify(store, verifier=verifier) == []
    before = out.read_bytes()

    def refused(content: bytes, error: type[UserError], words: str) -> None:
        store.put(POINTER, content)
        with pytest.raises(error, match=words):
            pull(store, "tiny@production", out, verifier)
        with pytest.raises(error, match=words):
            promote(store, "tiny", 1, CHANNEL, approver="kim", signer=signer, verifier=verifier)
        with pytest.raises(error, match=words):
            rollback(store, "tiny", CHANNEL, approver="kim", signer=signer, verifier=verifier)
        assert any(words in problem.what for problem in verify(store, verifier=verifier))
        assert store.read(POINTER) == content
        assert out.read_bytes() == before

    refused(old, OlderPointerError, "somebody has put an older one back")
    present = json.loads(new)
    changes = {"version": 1} | {k: first[k] for k in ("sha256", "manifest_sha256")}
    forged = document(sealed(present | changes))
    refused(forged, SignatureError, "was not signed with the key")
    bare = {k: v for k, v in present.items() if k not in ("signature", SEAL)}
    refused(document(sealed(bare | changes)), SignatureError, "is not signed")
    # A true signature, of another channel's move: of the same version, even.
    store.put(POINTER, new)
    elsewhere = move(1, "staging")
    stolen = document(sealed(elsewhere | {"channel": CHANNEL}))
    refused(stolen, SignatureError, "was not signed with the key")

    store.put(POINTER, new)
    assert pull(store, "tiny@production", out, verifier).version.version == 2
    assert verify(store, verifier=verifier) == []


@only_files
def test_no_pointer_at_all_is_an_older_one(
    store: Store, register: Register, move: Callable[..., Any], signer: Signer, verifier: Verifier
) -> None:
    register(1, signer=signer)
    move(1)
    store.delete(POINTER)
    store.delete(history_key("tiny", CHANNEL, 1))
    for attempt in (
        lambda: pull(store, "tiny@production", "out", verifier),
        lambda: move(1),
    ):
        with pytest.raises(OlderPointerError, match="it has no pointer, this machine has seen"):
            attempt()
    assert [p.uri for p in verify(store, verifier=verifier)] == [store.uri(POINTER)]


@only_files
def test_a_restored_registry_is_taken_back_once(
    store: Store,
    root: str,
    register: Register,
    move: Callable[..., Any],
    signer: Signer,
    keys: tuple[Path, Path],
    verifier: Verifier,
    tmp_path: Path,
) -> None:
    for seed in (1, 2, 3):
        register(seed, ap=0.5 + seed / 10, signer=signer)
    move(1)
    shutil.copytree(root, tmp_path / "backup")
    move(2)
    shutil.rmtree(root)
    shutil.copytree(tmp_path / "backup", root)
    out = tmp_path / "out.safetensors"
    with pytest.raises(OlderPointerError, match="generation 1, this machine has seen generation 2"):
        pull(store, "tiny@production", out, verifier)
    willing = Verifier(keys[1], allow_older=True)
    assert pull(store, "tiny@production", out, willing).version.version == 1
    assert pull(store, "tiny@production", out, verifier).version.version == 1
    # From here another generation 2 is made: who has seen the first one must be told.
    move(3)
    seen = next((tmp_path / "cache").glob("registry-generations/*/tiny/production"))
    name = max(path.name for path in seen.iterdir())
    assert name.startswith("00000002-")
    (seen / name).rename(seen / f"00000002-{'0' * 64}")
    with pytest.raises(OlderPointerError, match="has seen another move of that number"):
        pull(store, "tiny@production", out, verifier)


def test_history_is_vouched_for_by_the_pointer(
    store: Store, register: Register, move: Callable[..., Any], signer: Signer, verifier: Verifier
) -> None:
    for seed in (1, 2, 3):
        register(seed, ap=0.5 + seed / 10, signer=signer)
    for version in (1, 2, 3):
        move(version)
    key = history_key("tiny", CHANNEL, 2)
    content = json.loads(store.read(key))
    original = store.read(key)
    # The rollback would go to version 1.
    first = json.loads(store.read(history_key("tiny", CHANNEL, 1)))
    forged = content | {k: first[k] for k in ("version", "sha256", "manifest_sha256")}
    for changed in (forged, {k: v for k, v in forged.items() if k != "signature"}):
        store.put(key, document(sealed({k: v for k, v in changed.items() if k != SEAL})))
        with pytest.raises(DamagedObjectError, match="generation 2 is not the move that"):
            rollback(store, "tiny", CHANNEL, approver="kim", signer=signer, verifier=verifier)
        for chosen in (verifier, None):
            assert ["generation 2 is not" in p.what for p in verify(store, verifier=chosen)] == [
                True
            ]
    store.put(key, original)
    record = rollback(store, "tiny", CHANNEL, approver="kim", signer=signer, verifier=verifier)
    assert (record["version"], record["generation"]) == (2, 4)
    assert verify(store, verifier=verifier) == []


@only_files
def test_a_move_while_the_pointer_is_read_is_no_older_pointer(
    store: Store,
    register: Register,
    move: Callable[..., Any],
    signer: Signer,
    verifier: Verifier,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for seed in (1, 2):
        register(seed, ap=0.5 + seed / 10, signer=signer)
    move(1)
    old = store.read(POINTER)
    read_tagged, moved = store.read_tagged, []

    def read_and_wait(key: str) -> Any:
        found = read_tagged(key)
        if key == POINTER and not moved:
            moved.append(True)
            move(2)  # another process of this machine, before the answer is here
        return found

    monkeypatch.setattr(store, "read_tagged", read_and_wait)
    assert current(store, "tiny", CHANNEL, verifier)["version"] == 1  # type: ignore[index]
    assert current(store, "tiny", CHANNEL, verifier)["version"] == 2  # type: ignore[index]
    store.put(POINTER, old)
    with pytest.raises(OlderPointerError):
        current(store, "tiny", CHANNEL, verifier)


@only_files
def test_readers_that_run_beside_a_promoter_raise_no_false_alarm(
    store: Store, register: Register, move: Callable[..., Any], signer: Signer, keys: Any
) -> None:
    """They share what this machine has seen: the pointer may move while one of them reads it."""
    for seed in (1, 2):
        register(seed, signer=signer)
    move(1)
    ended = threading.Event()
    problems: list[Exception] = []

    def read() -> None:
        reader = Verifier(keys[1])
        while not ended.is_set():
            try:
                current(store, "tiny", CHANNEL, reader)
            except Exception as error:
                problems.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for n in range(12):
            version = read_version(store, "tiny", 1 + (n + 1) % 2)
            make_move(
                *(store, version, CHANNEL),
                action="promote",
                approver="kim",
                signer=signer,
                verifier=Verifier(keys[1]),
            )
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert problems == []
    assert current(store, "tiny", CHANNEL, Verifier(keys[1]))["generation"] == 13  # type: ignore[index]
