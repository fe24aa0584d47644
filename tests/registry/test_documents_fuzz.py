"""Whatever the documents of a registry hold: no traceback, nothing needed is removed, and `verify`
names what is damaged or malformed.

Each case mutates one document of a small registry: its bytes, or its JSON, which may be sealed
again as a faulty writer would. Here a short form; `make registry-fuzz`: 100,000 mutations, in
another order each time (one of before: FUZZ_SEED=...).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as in_order
from hypothesis import strategies as st

from sdpose.cli import cli
from sdpose.errors import UserError
from sdpose.registry import model_names, resolve, summarize, versions
from sdpose.registry.channels import current, history, refusals, rollback, set_channel
from sdpose.registry.documents import (
    SEAL,
    Document,
    Mark,
    Move,
    NewManifest,
    Refusal,
    Seen,
    Signature,
    Withdrawals,
    digest_of,
    document,
    flaws,
    new_document,
)
from sdpose.registry.gc import gc
from sdpose.registry.gc_marks import new_mark, read_mark
from sdpose.registry.layout import blob_key, mark_key, signature_key
from sdpose.registry.signatures import read_signature
from sdpose.registry.verify import verify
from sdpose.registry.versions import create_version, digests_of
from sdpose.registry.withdraw import withdraw
from sdpose.registry.withdrawals import read_withdrawals
from sdpose.storage import FileStore

pytestmark = pytest.mark.slow

CASES = int(os.environ.get("FUZZ_CASES", "200"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
OLD = Path(__file__).with_name("written_by_f51444b")
ORPHAN = hashlib.sha256(b"orphan").hexdigest()
SEALED: dict[str, type[Document]] = {
    "versions": NewManifest,
    "signatures": Signature,
    "withdrawn.json": Withdrawals,
    "pointer.json": Move,
    "history": Move,
    "refused": Refusal,
}


class ReadOnly:
    """A store that nobody may write to."""

    def __init__(self, store: FileStore) -> None:
        self.store = store

    def __getattr__(self, name: str) -> Any:
        if name in ("put", "put_if_absent", "swap", "put_file", "set_channel", "delete"):
            raise UserError("read-only")
        return getattr(self.store, name)


def write_registry(root: Path) -> FileStore:
    """Every kind of document, each as the code writes it; the weights are a few bytes."""
    store = FileStore(root)
    content = json.loads((OLD / "models/tiny/versions/2.json").read_text())
    for key in ("version", SEAL):
        del content[key]
    made = []
    for number in (1, 2, 3, 4):
        weights = b"weights %d" % number
        sha256 = hashlib.sha256(weights).hexdigest()
        store.put(blob_key(sha256), weights)
        changed = content | {"weights": content["weights"] | {"sha256": sha256, "size": 9}}
        made.append(create_version(store, "tiny", changed | digests_of(changed)))
    for number in (1, 2, 3, 2, 1):
        set_channel(store, made[number - 1], "production", action="promote", approver="kim")
    rollback(store, "tiny", "production", approver="lee", comment="worse at night")
    set_channel(
        *(store, made[2], "production"),
        action="promote",
        approver="kim",
        gates=lambda present: [{"gate": "never", "passed": False, "reason": "no"}],
    )
    withdraw(store, "tiny", 4, reason="trained on faces", approver="kim")
    statement = {"predicate": {"resources": [{"digest": made[0].manifest_sha256}]}}
    payload = base64.b64encode(json.dumps(statement).encode()).decode()
    bundle = {"dsseEnvelope": {"payload": payload, "signatures": [{"sig": "AAAA"}]}}
    signature = document(new_document(Signature, {"bundle": bundle}))
    store.put(signature_key("tiny", 1), signature)
    store.put(blob_key(ORPHAN), b"orphan")
    gc(store, dry_run=False)
    return store


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> FileStore:
    return write_registry(tmp_path_factory.mktemp("registry"))


# ------------------------------------------------------------------------------ what is done to it

odd_texts = st.sampled_from(
    ["", "²", "\x1b[2J", "../../x", "NaN", "a" * 5000, "0" * 64, "\u202e", "2026-99-99", "/", "."]
)
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 9),
    st.sampled_from([10**18, 10**400, -1, 1.5, float("nan"), float("inf"), 1e308]),
    odd_texts,
    st.text(max_size=8),
    st.recursive(
        st.none() | st.integers(0, 3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_texts, inner, max_size=3),
        max_leaves=6,
    ),
)
whole = st.sampled_from(
    [
        *(b"", b"{}", b"[]", b"null", b"NaN", b"\xff", b"\xef\xbb\xbf{}", b'"x"', b"1e999"),
        *(b"[" * 50_000, b'{"a":' * 50_000, b"9" * 5000, b"\x00" * 100, b'[["a", 1]]'),
        *(b'{"versions": [{"version": 1}]}', b'{"versions": {}}', b'{"versions": null}'),
    ]
)


def mutate_bytes(draw: Callable[..., Any], data: bytes) -> bytes:
    kind = draw(st.sampled_from(["flip", "cut", "insert", "remove", "whole"]))
    where = draw(st.integers(0, max(len(data) - 1, 0)))
    if kind == "flip":
        return (
            data[:where] + bytes([data[where] ^ (1 << draw(st.integers(0, 7)))]) + data[where + 1 :]
        )
    if kind == "cut":
        return data[:where]
    if kind == "insert":
        return data[:where] + draw(st.binary(min_size=1, max_size=4)) + data[where:]
    if kind == "remove":
        return data[:where] + data[where + draw(st.integers(1, 40)) :]
    return bytes(draw(whole))


def mutate_json(draw: Callable[..., Any], data: bytes) -> bytes:
    """Changes a value somewhere, removes it or adds one."""
    content = json.loads(data)
    at = content
    while True:
        keys = sorted(at) if isinstance(at, dict) else range(len(at))
        if not keys:
            break
        key = draw(st.sampled_from(keys))
        if isinstance(at[key], dict | list) and at[key] and draw(st.booleans()):
            at = at[key]
            continue
        kind = draw(st.sampled_from(["change", "change", "remove", "add"]))
        if kind == "remove":
            del at[key]
        elif kind == "change" or isinstance(at, list):
            at[key] = draw(values)
        else:
            at[draw(odd_texts)] = draw(values)
        break
    if SEAL in content and draw(st.integers(0, 3)):
        less = {key: value for key, value in content.items() if key != SEAL}
        with contextlib.suppress(ValueError):  # half a surrogate pair
            content[SEAL] = digest_of(less)
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    return (text + "\n").encode(errors="surrogatepass")


# ------------------------------------------------------------------------------ what must hold

READS: list[Callable[[Any], object]] = [
    verify,
    lambda store: gc(store, grace=timedelta(0)),
    lambda store: gc(store, dry_run=False),
    model_names,
    lambda store: summarize(store, "tiny"),
    lambda store: summarize(store, "tiny", by_index=True, tolerant=True),
    lambda store: list(versions(store, "tiny")),
    lambda store: current(store, "tiny", "production"),
    lambda store: history(store, "tiny", "production"),
    lambda store: refusals(store, "tiny", "production"),
    lambda store: rollback(store, "tiny", "production", approver="kim"),
    lambda store: withdraw(store, "tiny", 3, reason="x", approver="kim"),
    lambda store: resolve(store, "tiny@production"),
    lambda store: read_signature(store, resolve(store, "tiny@1")),
    lambda store: read_withdrawals(store, "tiny"),
    lambda store: read_mark(store, ORPHAN),
]
COMMANDS = (
    ("list",),
    ("list", "tiny"),
    ("list", "tiny", "--json"),
    ("show", "tiny@production"),
    ("show", "tiny@1", "--json"),
    ("diff", "tiny@1", "tiny@2"),
    ("history", "tiny"),
    ("history", "tiny", "--json"),
    ("verify", "--json"),
    ("gc", "--grace-hours", "0"),
)


@pytest.mark.timeout(300 if CASES <= 1000 else 20_000)
def test_no_document_ends_in_a_traceback(registry: FileStore) -> None:
    assert verify(registry) == []
    needed = {version.sha256 for version in versions(registry, "tiny")}
    keys = [key for key in registry.list("") if key.endswith(".json")]
    assert len(keys) == 4 + 1 + 1 + 1 + 1 + 6 + 1 + 2 + 1
    originals = {key: registry.read(key) for key in keys}
    store: Any = ReadOnly(registry)
    done = {"cases": 0, "named": 0}

    @settings(
        max_examples=CASES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @in_order(SEED)
    @given(st.data())
    def one(data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(keys))
        original = originals[key]
        rotten = data.draw(st.booleans())
        changed = (mutate_bytes if rotten else mutate_json)(data.draw, original)
        path = registry.root / key
        path.chmod(0o644)
        path.write_bytes(changed)
        try:
            check(data, key, changed, rotten)
        finally:
            path.write_bytes(original)
        done["cases"] += 1
        if done["cases"] % 1000 == 0:
            print(done, flush=True)

    def check(data: st.DataObject, key: str, changed: bytes, rotten: bool) -> None:
        problems = verify(store)
        if changed != originals[key] and must_be_named(key, changed, rotten):
            assert registry.uri(key) in {problem.uri for problem in problems}, changed
            done["named"] += 1
        if rotten or is_damaged(changed):
            with contextlib.suppress(UserError):
                would_go = gc(store, grace=timedelta(0))
                assert not needed & {*would_go.marked, *would_go.trashed}
        for read in data.draw(st.lists(st.sampled_from(READS), min_size=3, max_size=3)):
            with contextlib.suppress(UserError):
                read(store)
        words = data.draw(st.sampled_from(COMMANDS))
        result = CliRunner().invoke(cli, ["registry", *words, "--registry", str(registry.root)])
        if not isinstance(result.exception, UserError | SystemExit | None):
            raise result.exception
        assert not {"\x1b", "\x9b", "\u202e"} & set(result.output)

    one()
    print(f"{done['cases']} mutations, {done['named']} that verify had to name")
    assert done["named"] > CASES // 4
    assert verify(registry) == []


def must_be_named(key: str, changed: bytes, rotten: bool) -> bool:
    """A sealed document that is not what was written, or is and is malformed."""
    kind = next((SEALED[part] for part in SEALED if f"/{part}" in key), None)
    if "versions/4.json" in key:  # withdrawn
        return False
    if key.endswith("/index.json"):
        return is_damaged(changed, sealed=False) or not _has_rows(changed)
    if kind is None:
        kind = Mark if "gc/marks" in key else Seen if key.startswith("gc/") else None
        return kind is not None and not _is(kind, changed)
    return rotten or not _is(kind, changed)


def is_damaged(changed: bytes, *, sealed: bool = True) -> bool:
    """Whether any reader sees that these bytes are not what was written."""
    try:
        content = json.loads(changed)
        less = {key: value for key, value in content.items() if key != SEAL}
        return sealed and (SEAL not in content or content[SEAL] != digest_of(less))
    except (ValueError, AttributeError, RecursionError):
        return True


def _has_rows(changed: bytes) -> bool:
    rows = json.loads(changed).get("versions")
    return isinstance(rows, list) and all(isinstance(row, dict) for row in rows)


def _is(kind: type[Document], data: bytes) -> bool:
    try:
        content = json.loads(data)
        return isinstance(content, dict) and not flaws(kind, content)
    except (ValueError, RecursionError):
        return False


def test_the_registry_holds_every_kind_of_document(registry: FileStore) -> None:
    assert registry.exists(mark_key(ORPHAN))
    assert read_mark(registry, ORPHAN) is not None
    assert new_mark(datetime.now(UTC))
