"""A version that should not exist is taken out of use: recorded, its number never used again."""

from __future__ import annotations

import contextlib
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from interrupted import Interrupted
from made import Register

from sdpose.cli import cli
from sdpose.errors import UserError
from sdpose.registry import pull, read_version, resolve, summarize
from sdpose.registry.channels import current, history, set_channel
from sdpose.registry.gc import gc
from sdpose.registry.layout import blob_key, index_key, manifest_key, withdrawals_key
from sdpose.registry.promote import promote, rollback
from sdpose.registry.references import DisagreementError
from sdpose.registry.verify import verify
from sdpose.registry.withdraw import withdraw
from sdpose.registry.withdrawals import read_withdrawals
from sdpose.storage import DamagedObjectError, FileStore, Store

NOW = timedelta(0)


def take_out(store: Store, version: int, reason: str = "trained on faces") -> dict[str, Any]:
    return withdraw(store, "tiny", version, reason=reason, approver="kim")


def test_a_withdrawn_version_is_out_of_use(
    store: Store, register: Register, root: str, tmp_path: Path
) -> None:
    first = register(1)
    register(2)
    assert take_out(store, 1)["reason"] == "trained on faces"
    assert take_out(store, 1, "again")["reason"] == "trained on faces"  # once
    said = r"tiny version 1 was withdrawn by kim on \d{4}-\d\d-\d\d: trained on faces"
    for use in (lambda: resolve(store, "tiny@1"), lambda: pull(store, "tiny@1", tmp_path / "x")):
        with pytest.raises(UserError, match=said):
            use()
    record = promote(store, "tiny", 1, "staging", approver="lee")
    assert not record["allowed"]
    assert [verdict["gate"] for verdict in record["gates"]] == ["withdrawn"]
    assert current(store, "tiny", "staging") is None
    assert verify(store) == []

    again = register(1)  # the same content
    assert (again.version, again.created) == (3, True)
    assert again.sha256 == first.sha256
    assert register(1).version == 3
    assert pull(store, "tiny@3", tmp_path / "x").version.version == 3

    def run(*words: str) -> Any:
        result = CliRunner().invoke(cli, ["registry", *words, "--registry", root])
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout

    rows = json.loads(run("list", "tiny", "--json"))
    assert [row["withdrawn"] and row["withdrawn"]["reason"] for row in rows] == [
        None,
        None,
        "trained on faces",  # last, whatever its AP
    ]
    assert "withdrawn: trained on faces" in run("list", "tiny")
    assert "was withdrawn by kim" in run("show", "tiny@1")
    assert json.loads(run("show", "tiny@1", "--json"))["withdrawn"]["approver"] == "kim"
    assert json.loads(run("show", "tiny@3", "--json"))["withdrawn"] is None


def test_gc_keeps_no_weights_for_it(store: Store, register: Register) -> None:
    first, second = register(1), register(2)
    for version in (1, 2):  # it was in use once
        promote(store, "tiny", version, "staging", approver="kim")
    promote(store, "tiny", 1, "candidate", approver="kim")
    promote(store, "tiny", 2, "candidate", approver="kim")
    take_out(store, 1)
    assert gc(store, dry_run=False).marked == (first.sha256,)
    assert gc(store, dry_run=False, grace=NOW).trashed == (first.sha256,)
    assert gc(store, dry_run=False, grace=NOW).deleted == (first.sha256,)
    assert [key.rsplit("/")[-1] for key in store.list("blobs")] == [second.sha256]
    assert verify(store) == []


def test_what_a_channel_points_at_stays(store: Store, register: Register) -> None:
    for seed in (1, 2, 3):
        register(seed, ap=seed / 10)
        promote(store, "tiny", seed, "production", approver="kim")
    with pytest.raises(UserError, match=r"tiny version 3 is in use: production points at it;"):
        take_out(store, 3)
    take_out(store, 2)
    back = rollback(store, "tiny", "production", approver="kim")
    assert (back["version"], back["generation"]) == (1, 4)  # not 2
    take_out(store, 3)
    with pytest.raises(UserError, match="no version before 1"):
        rollback(store, "tiny", "production", approver="kim")
    promote(store, "tiny", register(4, ap=0.4).version, "production", approver="kim")
    take_out(store, 1)
    with pytest.raises(UserError, match=r"no version before 4 that is in use: 1 withdrawn"):
        rollback(store, "tiny", "production", approver="kim")
    assert [record["version"] for record in history(store, "tiny", "production")] == [1, 2, 3, 1, 4]
    assert verify(store) == []


def test_what_is_damaged_or_lost_can_be_withdrawn(store: Store, register: Register) -> None:
    for seed in (1, 2, 3):
        register(seed)
    store.put(manifest_key("tiny", 1), b"{}")
    store.delete(manifest_key("tiny", 2))
    assert len(verify(store)) == 2
    for refuses in (DamagedObjectError, DisagreementError):
        with pytest.raises(refuses):
            gc(store, dry_run=False)
        take_out(store, 1 if refuses is DamagedObjectError else 2)
    assert verify(store) == []
    assert len(gc(store, dry_run=False).marked) == 2
    store.delete(index_key("tiny"))
    assert register(4).version == 4
    # The number stays taken, even if nothing else says that there was such a version.
    take_out(store, 4)
    store.delete(manifest_key("tiny", 4))
    store.delete(index_key("tiny"))
    assert register(5).version == 5
    assert [row["version"] for row in summarize(store, "tiny", withdrawn=[1])] == [1, 3, 5]
    with pytest.raises(UserError, match=r"version 9 is not in the registry: there are versions"):
        take_out(store, 9)
    with pytest.raises(UserError, match="needs a reason"):
        take_out(store, 5, " ")


def test_a_damaged_list_of_withdrawals_lets_nothing_through(
    store: Store, register: Register, tmp_path: Path
) -> None:
    register(1)
    register(2)
    take_out(store, 2)
    key = withdrawals_key("tiny")
    original = store.read(key)
    for content in (b"", original.replace(b"faces", b"hands"), original[:-1] + b" \n"):
        store.put(key, content)
        assert [problem.uri for problem in verify(store)][:1] == [store.uri(key)]
    store.put(key, b"{}")
    for use in (
        lambda: pull(store, "tiny@1", tmp_path / "x"),
        lambda: promote(store, "tiny", 1, "staging", approver="kim"),
        lambda: gc(store, dry_run=False),
        lambda: register(3),
    ):
        with pytest.raises(DamagedObjectError, match=r"withdrawn\.json is damaged"):
            use()


@pytest.mark.timeout(1200)
def test_withdrawn_and_promoted_at_once(store: Store, register: Register) -> None:
    """At every operation of the one, the other as a whole: never both."""
    for seed in (1, 2):
        register(seed)
    set_channel(store, read_version(store, "tiny", 1), "staging", action="promote", approver="kim")
    for which in ("promotion", "withdrawal"):
        step = 1 if isinstance(store, FileStore) else 5  # on S3 an operation is a request
        n = 1 - step
        while True:
            n += step
            number = register(10 * n + (which == "promotion")).version
            version = read_version(store, "tiny", number)

            def promoted(on: Any, version: Any = version) -> None:
                record = set_channel(on, version, "staging", action="promote", approver="kim")
                if not record["allowed"]:
                    raise UserError("refused")

            def withdrawn(on: Any, number: int = number) -> None:
                take_out(on, number)

            one, other = (promoted, withdrawn) if which == "promotion" else (withdrawn, promoted)

            def meanwhile(other: Any = other) -> None:
                with contextlib.suppress(UserError):
                    other(store)

            interrupted: Any = Interrupted(store, n, meanwhile)
            with contextlib.suppress(UserError):
                one(interrupted)
            if interrupted.left > 0:
                break
            present = current(store, "tiny", "staging")
            assert present is not None
            gone = number in read_withdrawals(store, "tiny")
            assert not (gone and present["version"] == number), (which, n)
            assert verify(store) == []
        assert n > 5


def test_many_withdraw_at_once(store: Store, register: Register) -> None:
    for seed in (1, 2, 3):
        register(seed)
    n = 0
    while True:
        n += 1
        store.delete(withdrawals_key("tiny"))
        interrupted: Any = Interrupted(store, n, lambda: take_out(store, 2))
        take_out(interrupted, 1)
        if interrupted.left > 0:
            break
        assert sorted(read_withdrawals(store, "tiny")) == [1, 2], n
    assert not store.exists(blob_key("0" * 64))
