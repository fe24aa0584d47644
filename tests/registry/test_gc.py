"""gc removes nothing that is needed: whatever a listing hides, whoever is stopped when."""

from __future__ import annotations

import contextlib
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from interrupted import Hiding, Interrupted
from made import Register

from sdpose.cli import cli
from sdpose.errors import UserError
from sdpose.files import sha256_of_file
from sdpose.registry import gc_marks, pull, read_version
from sdpose.registry.channels import set_channel
from sdpose.registry.gc import gc, restore
from sdpose.registry.layout import SEEN, blob_key, index_key, manifest_key, pointer_key
from sdpose.registry.promote import promote
from sdpose.registry.references import DisagreementError
from sdpose.registry.verify import verify
from sdpose.storage import DamagedObjectError, FileStore, Store

NOW = timedelta(0)


def forget(store: Store, model: str = "tiny", version: int = 1) -> None:
    """A registration that was killed before it announced the version."""
    for key in (manifest_key(model, version), index_key(model), SEEN):
        store.delete(key)


def step_of(store: Store) -> int:
    """Every operation in a folder; on S3, where one is a request, every ninth."""
    return 1 if isinstance(store, FileStore) else 9


def gc_to_the_end(store: Store) -> None:
    for _ in range(4):  # marked, moved to the trash, deleted
        gc(store, dry_run=False, grace=NOW)


@pytest.mark.parametrize(
    "hidden", ["models/tiny/", "models/tiny/versions/", "models/tiny/versions/2.json", "models/"]
)
def test_a_listing_that_hides_something_removes_nothing(
    store: Store, register: Register, hidden: str
) -> None:
    for seed in (1, 2):
        register(seed)
    register(3, model="other")
    set_channel(
        store, read_version(store, "tiny", 2), "production", action="promote", approver="kim"
    )
    assert gc(store, dry_run=False).marked == ()
    blobs = list(store.list("blobs"))
    blind: Any = Hiding(store, hidden)
    for _ in range(4):
        with pytest.raises(DisagreementError) as caught:
            gc(blind, dry_run=False, grace=NOW)
        assert "nothing is removed" in str(caught.value)
        assert "tiny" in str(caught.value)
    assert list(store.list("blobs")) == blobs
    assert gc(store, dry_run=False, grace=NOW).trashed == ()
    assert verify(store) == []


def test_what_was_hidden_from_the_first_gc_on_comes_back(store: Store, register: Register) -> None:
    version = register(1)
    blind: Any = Hiding(store, "models/tiny/")
    assert gc(blind, dry_run=False).marked == (version.sha256,)
    assert gc(blind, dry_run=False, grace=NOW).trashed == (version.sha256,)
    (problem,) = verify(store)
    assert problem.uri == store.uri(blob_key(version.sha256))
    assert "in the trash: `sdpose registry gc --restore`" in problem.what
    assert gc(store, dry_run=True).restored == (version.sha256,)
    assert gc(store, dry_run=False, grace=NOW).restored == (version.sha256,)
    assert verify(store) == []


def test_sources_that_disagree(store: Store, register: Register) -> None:
    for seed in (1, 2, 3):
        register(seed, ap=seed / 10)
    promote(store, "tiny", 1, "production", approver="kim")
    promote(store, "tiny", 2, "production", approver="kim")
    originals = {key: store.read(key) for key in store.list("models")}

    def refused(*removed: str) -> str:
        for key in removed:
            store.delete(key)
        with pytest.raises(DisagreementError) as caught:
            gc(store, dry_run=False, grace=NOW)
        for key in removed:
            store.put(key, originals[key])
        return str(caught.value)

    assert "tiny version 3: the manifest is missing, and the index has it" in refused(
        manifest_key("tiny", 3)
    )
    assert "tiny version 1: the manifest is missing, and production has or had it" in refused(
        manifest_key("tiny", 1), index_key("tiny")
    )
    assert "production has a history, and its pointer is missing" in refused(
        pointer_key("tiny", "production")
    )
    store.put(index_key("tiny"), b"{}")
    with pytest.raises(DamagedObjectError, match=r"index\.json is malformed.*; delete it"):
        gc(store, dry_run=False, grace=NOW)
    store.delete(index_key("tiny"))  # it is a cache
    assert gc(store, dry_run=False, grace=NOW).marked == ()


def test_the_trash_gives_back(store: Store, register: Register, root: str, tmp_path: Path) -> None:
    version = register(1)
    orphan = tmp_path / "orphan"
    orphan.write_bytes(b"of a registration that was killed")
    sha256 = sha256_of_file(orphan)
    store.put_file(orphan, blob_key(sha256), sha256)

    def run(*words: str, code: int = 0) -> Any:
        command = ["registry", "gc", *words, "--registry", root, "--json"]
        result = CliRunner().invoke(cli, command)
        assert result.exit_code == code, (result.output, result.exception)
        return json.loads(result.stdout)

    assert run("--delete")["marked"] == [sha256]
    assert run("--delete", "--grace-hours", "0")["trashed"] == [sha256]
    assert run("--delete")["deleted"] == []  # the grace period
    assert run("--restore") == {"restored": [sha256]}
    assert store.read(blob_key(sha256)) == orphan.read_bytes()
    assert not list(store.list("gc/trash"))
    assert run("--restore") == {"restored": []}
    assert run("--delete")["marked"] == [sha256]  # once more from the beginning
    gc_to_the_end(store)
    assert [key.rsplit("/")[-1] for key in store.list("blobs")] == [version.sha256]
    assert list(store.list("gc")) == [SEEN]
    with pytest.raises(UserError, match=f"not in the trash: {sha256}; there are: -"):
        restore(store, [sha256])
    both = CliRunner().invoke(cli, ["registry", "gc", "--delete", "--restore", "--registry", root])
    assert isinstance(both.exception, UserError)


@pytest.mark.timeout(1200)
def test_whole_gcs_during_a_registration(
    store: Store, register: Register, tmp_path: Path, experiment: Any
) -> None:
    """At every operation of a registration that is stopped there, with no grace period at all, and
    with weights that are new, marked, or in the trash."""
    n, turn = 1 - step_of(store), 0
    while True:
        n, turn = n + step_of(store), turn + 1
        interrupted: Any = Interrupted(store, n, lambda: gc_to_the_end(store))
        register(1, root=interrupted)
        if interrupted.left > 0:
            break
        assert verify(store) == [], n
        gc_to_the_end(store)
        assert verify(store) == [], n
        forget(store)
        if turn % 2:
            gc_to_the_end(store)  # so that the next one finds no weights
    assert n > 8


@pytest.mark.timeout(1200)
def test_a_gc_that_is_stopped_for_long(
    store: Store, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registration waits for a gc only so long. The gc goes on later, or is killed and another
    one comes."""
    monkeypatch.setattr(gc_marks, "PATIENCE_WITH_GC", 0.0)
    register(1)
    for killed in (False, True):
        n = 1 - step_of(store)
        while True:
            n += step_of(store)
            forget(store)
            gc(store, dry_run=False)

            def meanwhile() -> None:
                register(1)

            interrupted: Any = Interrupted(store, n, meanwhile)
            if killed:
                # It goes on for one or two operations, and dies.
                dying: Any = Interrupted(interrupted, n + 1 + n % 2, _die)
                with contextlib.suppress(KeyboardInterrupt):
                    gc(dying, dry_run=False, grace=NOW)
            else:
                gc(interrupted, dry_run=False, grace=NOW)
            if interrupted.left > 0:
                break
            gc(store, dry_run=False, grace=NOW)
            assert verify(store) == [], (n, killed)
        assert n > 8
        register(1)


def _die() -> None:
    raise KeyboardInterrupt


@pytest.mark.timeout(1200)
def test_two_gcs_at_once(store: Store, register: Register) -> None:
    register(2)
    n = 1 - step_of(store)
    while True:
        n += step_of(store)
        version = register(1)
        forget(store, version=version.version)
        gc(store, dry_run=False)
        interrupted: Any = Interrupted(store, n, lambda: gc_to_the_end(store))
        gc(interrupted, dry_run=False, grace=NOW)
        if interrupted.left > 0:
            break
        assert not [p for p in verify(store) if "missing" in p.what], n
    assert n > 8


def test_pull_after_a_restore(store: Store, register: Register, tmp_path: Path) -> None:
    version = register(1)
    blind: Any = Hiding(store, "models/tiny/")
    gc(blind, dry_run=False)
    gc(blind, dry_run=False, grace=NOW)
    assert not store.exists(blob_key(version.sha256))
    assert restore(store) == [version.sha256]
    weights = pull(store, "tiny@1", tmp_path / "w.safetensors").weights
    assert sha256_of_file(weights) == version.sha256
