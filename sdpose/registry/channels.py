"""Channels: which version is the candidate, on stage, in production; and how that came about.

The pointer of a channel is one object that changes only by compare-and-swap. It holds the whole
record of the move that made it, with a generation number that grows by one. Before a pointer is
replaced, its record is in the history; so the history and the pointer together are every move that
there was, in one order, whoever was killed when. Two promoters never both win: the swap of the
second one fails, and its gates are asked again, against what is there now.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sdpose.errors import UserError
from sdpose.registry.documents import Move, Refusal, decode, document, new_document
from sdpose.registry.layout import (
    channel_folder,
    check_channel,
    check_model_name,
    history_key,
    pointer_key,
)
from sdpose.registry.versions import ModelVersion, read_version
from sdpose.registry.withdrawals import explain_withdrawal, read_withdrawals
from sdpose.storage import DamagedObjectError, Store, Tag

Record = dict[str, Any]
Gates = Callable[[Record | None], list[dict[str, Any]]]
# Somebody else moves the pointer at every try: then something else is wrong.
TRIES = 100


def current(store: Store, model_name: str, channel: str) -> Record | None:
    """The record of the version that the channel has now: generation, version, previous_version,
    action, approver, comment, gates, at, manifest_sha256, sha256. None for an empty channel."""
    found = _read_pointer(store, model_name, channel)
    return found[0] if found else None


def history(store: Store, model_name: str, channel: str) -> list[Record]:
    """Every move of the channel, the first one first."""
    pointer = current(store, model_name, channel)  # first: the moves before it are written down
    folder = f"{channel_folder(model_name, channel)}/history"
    records = [
        parse_move(store.read(key), store.uri(key), model_name, channel)
        for key in store.list(folder)
    ]
    if pointer is not None and pointer not in records:
        records.append(pointer)  # whoever moved it was stopped before writing it down
    return records


def refusals(store: Store, model_name: str, channel: str) -> list[Record]:
    """Every promotion that a gate refused, the first one first."""
    folder = f"{channel_folder(check_model_name(model_name), check_channel(channel))}/refused"
    return [decode(Refusal, store.read(key), store.uri(key)) for key in store.list(folder)]


def no_gates(present: Record | None) -> list[dict[str, Any]]:
    return []


def move(
    store: Store,
    version: ModelVersion,
    channel: str,
    *,
    action: str,
    approver: str,
    comment: str = "",
    gates: Gates = no_gates,
) -> Record:
    """Points the channel at a version if its gates allow it; the record of what was decided.

    gates: asked with the present record, gives {name, passed, reason} each; asked again if somebody
    else moves the pointer meanwhile. A record whose `allowed` is False was refused and changed
    nothing. Pointing at what is there already changes nothing either.
    """
    name = version.model_name
    for _ in range(TRIES):
        found = _read_pointer(store, name, channel)
        present = found[0] if found else None
        withdrawn = read_withdrawals(store, name)
        if version.version in withdrawn:
            reason = explain_withdrawal(name, withdrawn[version.version])
            verdicts = [{"gate": "withdrawn", "passed": False, "reason": reason}]
        elif present is not None and present["version"] == version.version:
            return present
        else:
            verdicts = gates(present)
        record: Record = {
            "id": uuid.uuid4().hex,
            "model_name": name,
            "channel": channel,
            "generation": present["generation"] + 1 if present else 1,
            "version": version.version,
            "manifest_sha256": version.manifest_sha256,
            "sha256": version.sha256,
            "previous_version": present["version"] if present else None,
            "action": action,
            "allowed": all(verdict["passed"] for verdict in verdicts),
            "gates": verdicts,
            "approver": approver,
            "comment": comment,
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        if not record["allowed"]:
            del record["generation"]
            record = new_document(Refusal, record)
            when = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
            key = f"{channel_folder(name, channel)}/refused/{when}-{record['id'][:8]}.json"
            store.put_if_absent(key, document(record))
            return record
        record = new_document(Move, record)
        if _commit(store, name, channel, record, found):
            _write_down(store, name, channel, record)
            _check_withdrawn(store, record)
            return record
    raise UserError(f"{name}: the channel {channel} was moved by others {TRIES} times; try again")


def rollback(
    store: Store, model_name: str, channel: str, *, approver: str, comment: str = ""
) -> Record:
    """Points the channel back at the version that it had before the present one, as a new
    generation. Going back again goes further back; versions that were withdrawn are left out.
    UserError if there is nothing before."""
    records = history(store, model_name, channel)
    if not records:
        raise UserError(f"{model_name}: the channel {channel} is empty; nothing to roll back")
    # What stands below the present version, with promotions pushed and rollbacks popped.
    stack: list[int] = []
    for record in records:
        if record["action"] == "promote":
            stack.append(record["version"])
            continue
        # Down to the version that it went back to: withdrawn ones in between are left out.
        stack = stack[:-1]
        while stack and stack[-1] != record["version"]:
            stack.pop()
    if not stack:
        raise DamagedObjectError(
            f"{model_name}: the history of {channel} is damaged: it goes back further than it went"
        )
    withdrawn = read_withdrawals(store, model_name)
    before = [version for version in stack[:-1] if version not in withdrawn]
    if not before:
        left_out = sorted(set(stack[:-1]))
        raise UserError(
            f"{model_name}: the channel {channel} had no version before {stack[-1]}"
            + (f" that is in use: {', '.join(map(str, left_out))} withdrawn" if left_out else "")
        )
    generation = records[-1]["generation"]

    def nobody_was_faster(present: Record | None) -> list[dict[str, Any]]:
        if present is None or present["generation"] != generation:
            raise UserError(f"{model_name}: {channel} has moved meanwhile; look at its history")
        return []

    return move(
        store,
        read_version(store, model_name, before[-1]),
        channel,
        action="rollback",
        approver=approver,
        comment=comment,
        gates=nobody_was_faster,
    )


def _check_withdrawn(store: Store, record: Record) -> None:
    """Takes back a move to a version that was withdrawn while its gates were asked.

    Whoever withdraws looks at the pointers after writing it down, and whoever promotes looks at the
    withdrawals after moving the pointer: one of them sees the other.
    """
    name, channel = record["model_name"], record["channel"]
    withdrawn = read_withdrawals(store, name).get(record["version"])
    if withdrawn is None:
        return
    what = explain_withdrawal(name, withdrawn)
    try:
        rollback(store, name, channel, approver=record["approver"], comment=what)
    except UserError as error:
        raise UserError(
            f"{what}; {channel} points at it, and gives it to nobody: promote another version "
            f"({error})"
        ) from None
    raise UserError(f"{what}; {channel} is back at the version before")


def _commit(
    store: Store, name: str, channel: str, record: Record, found: tuple[Record, Tag] | None
) -> bool:
    if found is None:
        return store.put_if_absent(pointer_key(name, channel), document(record))
    present, tag = found
    _write_down(store, name, channel, present)
    if store.swap(pointer_key(name, channel), document(record), tag):
        return True
    # An answer may have been lost, and others may have moved on since: then it is in the history.
    written = store.read_tagged(history_key(name, channel, record["generation"]))
    return written is not None and written[0] == document(record)


def _write_down(store: Store, name: str, channel: str, record: Record) -> None:
    store.put_if_absent(history_key(name, channel, record["generation"]), document(record))


def _read_pointer(store: Store, name: str, channel: str) -> tuple[Record, Tag] | None:
    key = pointer_key(check_model_name(name), check_channel(channel))
    found = store.read_tagged(key)
    if found is None:
        return None
    data, tag = found
    return parse_move(data, store.uri(key), name, channel), tag


def parse_move(data: bytes, uri: str, name: str, channel: str) -> Record:
    """Raises DamagedObjectError, also for the record of another channel."""
    record = decode(Move, data, uri)
    if (record["model_name"], record["channel"]) != (name, channel):
        raise DamagedObjectError(
            f"{uri} is damaged: it is a record of {record['model_name']}, {record['channel']}"
        )
    return record
