"""Channels: which version is the candidate, in staging, in production, and the history of that.

The pointer of a channel is one object that changes only by compare-and-swap. It holds the whole
record of the move that made it, with a generation number that grows by one. The record of a pointer
is in the history before the pointer is replaced, so the history and the pointer together are all
moves in order, whichever process was killed when. Two promoters never both win: the swap of the
second one fails, and its gates run again, against the new pointer.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from sdpose.errors import UserError
from sdpose.registry.documents import SEAL, Move, Refusal, decode, document, new_document
from sdpose.registry.layout import (
    channel_folder,
    check_channel,
    check_model_name,
    history_key,
    pointer_key,
)
from sdpose.registry.rollback_protection import seen_generations
from sdpose.registry.signatures import (
    PUBLIC_KEY_VARIABLE,
    SIGNING_KEY_VARIABLE,
    Signer,
    Verifier,
)
from sdpose.registry.versions import ModelVersion, read_version
from sdpose.registry.withdrawals import explain_withdrawal, read_withdrawals
from sdpose.storage import DamagedObjectError, Store, Tag

Record = dict[str, Any]
Gates = Callable[[Record | None], list[dict[str, Any]]]
TRIES = 100  # lost swaps in a row; more than that is not contention


def current(
    store: Store, model_name: str, channel: str, verifier: Verifier | None = None
) -> Record | None:
    """The record of the channel's present version; None if the channel is empty.

    Returns:
        generation, version, previous_version, action, approver, comment, gates, at,
        manifest_sha256, sha256 and more, see `documents.Move`.
    Raises:
        SignatureError, OlderPointerError: the verifier does not accept it.
    """
    found = _read_pointer(store, model_name, channel, verifier)
    return found[0] if found else None


def history(
    store: Store, model_name: str, channel: str, verifier: Verifier | None = None
) -> list[Record]:
    """Every move of the channel, oldest first.

    Args:
        verifier: the pointer must be signed by its key; that covers all moves before it.
    Raises:
        SignatureError, OlderPointerError: as `current`.
        DamagedObjectError: a move is not the one that was written.
    """
    # The pointer first: all moves before it are in the history then.
    pointer = current(store, model_name, channel, verifier)
    folder = f"{channel_folder(model_name, channel)}/history"
    records = [
        parse_move(store.read(key), store.uri(key), model_name, channel)
        for key in store.list(folder)
    ]
    if pointer is not None and pointer not in records:
        records.append(pointer)  # its writer was killed before it added the record
    if verifier is not None and (broken := chain_breaks(records)):
        raise DamagedObjectError(f"{store.uri(folder)}: {broken[0]}")
    return records


def chain_breaks(records: list[Record]) -> list[str]:
    """The places where a move does not follow the one before it.

    Each move names the seal of the one before, so that a signature of the last one covers them all.
    """
    generations = [record["generation"] for record in records]
    if generations != list(range(1, len(generations) + 1)):
        return [f"the history is not a whole sequence: generations {generations}"]
    return [
        f"generation {before['generation']} is not the move that generation {after['generation']} "
        "followed"
        for before, after in pairwise(records)
        if after.get("previous_seal") not in (None, before[SEAL])
    ]


def refusals(store: Store, model_name: str, channel: str) -> list[Record]:
    """Every promotion that a gate refused, oldest first."""
    folder = f"{channel_folder(check_model_name(model_name), check_channel(channel))}/refused"
    return [decode(Refusal, store.read(key), store.uri(key)) for key in store.list(folder)]


def check_promoted(version: ModelVersion, record: Record) -> None:
    """Raises DamagedObjectError unless the version's manifest is the one that the record names."""
    if version.manifest_sha256 != record["manifest_sha256"]:
        raise DamagedObjectError(
            f"{version.manifest_uri} is not the manifest that was promoted to {record['channel']}: "
            f"it has SHA-256 {version.manifest_sha256}, expected {record['manifest_sha256']}"
        )


def no_gates(present: Record | None) -> list[dict[str, Any]]:
    return []


def set_channel(
    store: Store,
    version: ModelVersion,
    channel: str,
    *,
    action: str,
    approver: str,
    comment: str = "",
    gates: Gates = no_gates,
    signer: Signer | None = None,
    verifier: Verifier | None = None,
) -> Record:
    """Points the channel at a version if its gates allow it.

    Args:
        gates: called with the present record, returns {gate, passed, reason} each; called again if
            another process moves the pointer meanwhile.
        signer: signs the record.
        verifier: the present pointer must be signed by its key, and so must the new record:
            readers with this key would refuse another one.
    Returns:
        The record of the decision. One with `allowed` False was refused and changed nothing. If
        the channel points at this version already, nothing changes either.
    """
    name = version.model_name
    if verifier is not None and signer is None:
        raise UserError(
            f"{name}: who reads {channel} demands a signature ({PUBLIC_KEY_VARIABLE}): give "
            f"--sign KEY.pem or {SIGNING_KEY_VARIABLE}, or leave the public key out"
        )
    for _ in range(TRIES):
        found = _read_pointer(store, name, channel, verifier)
        present = found[0] if found else None
        withdrawn = read_withdrawals(store, name)
        if version.version in withdrawn:
            reason = explain_withdrawal(name, withdrawn[version.version])
            verdicts = [{"gate": "withdrawn", "passed": False, "reason": reason}]
        elif present is not None and present["version"] == version.version:
            if signer is not None and present.get("signature") is None:
                raise UserError(
                    f"{channel} has {name} version {version.version} already, by a move that is "
                    f"not signed; `sdpose registry sign {name}@{channel} --key KEY.pem` signs it"
                )
            return present
        else:
            verdicts = gates(present)
        record = _decision(version, channel, present, action, approver, comment, verdicts)
        if not record["allowed"]:
            return _add_refusal(store, _finished(Refusal, record, signer, verifier))
        record = _finished(Move, record | _place_after(present), signer, verifier)
        if _commit(store, name, channel, record, found):
            _add_to_history(store, name, channel, record)
            _check_withdrawn(store, record, signer)
            if verifier is not None:
                verifier.check_pointer(store, name, channel, record, [])
            return record
    raise UserError(f"{name}: the channel {channel} was moved by others {TRIES} times; try again")


def sign(
    store: Store, version: ModelVersion, channel: str, *, signer: Signer, approver: str
) -> Record:
    """Signs the version that the channel points at, whatever put it there.

    Adds a generation of the same version, after every one in the history.
    """
    model_name = version.model_name
    found = _read_pointer(store, model_name, channel)
    if found is None or found[0]["version"] != version.version:
        raise UserError(f"{model_name}: {channel} does not point at version {version.version}")
    present, _ = found
    check_promoted(version, present)
    last = max(history(store, model_name, channel), key=lambda record: record["generation"])
    record = _decision(version, channel, present, "sign", approver, "", []) | _place_after(last)
    record = _finished(Move, record, signer, None)
    if not _commit(store, model_name, channel, record, found):
        raise UserError(f"{model_name}: {channel} has moved meanwhile; look at its history")
    _add_to_history(store, model_name, channel, record)
    return record


def rollback(
    store: Store,
    model_name: str,
    channel: str,
    *,
    approver: str,
    comment: str = "",
    signer: Signer | None = None,
    verifier: Verifier | None = None,
) -> Record:
    """Points the channel at the version that it had before the present one, as a new generation.

    A second rollback goes further back. Withdrawn versions are skipped.

    Raises:
        UserError: there is no version before.
    """
    records = history(store, model_name, channel, verifier)
    if not records:
        raise UserError(f"{model_name}: the channel {channel} is empty; nothing to roll back")
    # The versions below the present one: promotions push, rollbacks pop.
    stack: list[int] = []
    for record in records:
        if record["action"] == "promote":
            stack.append(record["version"])
        if record["action"] != "rollback":
            continue
        # Down to the version that it went back to: withdrawn ones in between were skipped.
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

    def check_not_moved(present: Record | None) -> list[dict[str, Any]]:
        if present is None or present["generation"] != generation:
            raise UserError(f"{model_name}: {channel} has moved meanwhile; look at its history")
        return []

    target = read_version(store, model_name, before[-1])
    if verifier is not None:
        verifier.check(store, target)
    return set_channel(
        store,
        target,
        channel,
        action="rollback",
        approver=approver,
        comment=comment,
        gates=check_not_moved,
        signer=signer,
        verifier=verifier,
    )


def _check_withdrawn(store: Store, record: Record, signer: Signer | None) -> None:
    """Rolls back a move to a version that was withdrawn while its gates ran.

    A withdrawal reads the pointers after it is written, and a promotion reads the withdrawals after
    the pointer has moved: one of them sees the other.
    """
    name, channel = record["model_name"], record["channel"]
    withdrawn = read_withdrawals(store, name).get(record["version"])
    if withdrawn is None:
        return
    what = explain_withdrawal(name, withdrawn)
    try:
        rollback(store, name, channel, approver=record["approver"], comment=what, signer=signer)
    except UserError as error:
        raise UserError(
            f"{what}; {channel} points at it, and gives it to nobody: promote another version "
            f"({error})"
        ) from None
    raise UserError(f"{what}; {channel} is back at the version before")


def _decision(
    version: ModelVersion,
    channel: str,
    present: Record | None,
    action: str,
    approver: str,
    comment: str,
    verdicts: list[dict[str, Any]],
) -> Record:
    return {
        "id": uuid.uuid4().hex,
        "model_name": version.model_name,
        "channel": channel,
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


def _place_after(last: Record | None) -> Record:
    """The place of a move in the history; a refusal has none."""
    if last is None:
        return {"generation": 1, "previous_seal": None}
    return {"generation": last["generation"] + 1, "previous_seal": last[SEAL]}


def _finished(
    kind: type[Move | Refusal], record: Record, signer: Signer | None, verifier: Verifier | None
) -> Record:
    record = record if signer is None else signer.signed(record)
    if verifier is not None:
        verifier.check_record(record)  # fails unless the two keys are a pair
    return new_document(kind, record)


def _commit(
    store: Store, name: str, channel: str, record: Record, found: tuple[Record, Tag] | None
) -> bool:
    if found is None:
        return store.put_if_absent(pointer_key(name, channel), document(record))
    present, tag = found
    _add_to_history(store, name, channel, present)
    if store.swap(pointer_key(name, channel), document(record), tag):
        return True
    # If only the answer was lost, and others have moved on since, it is in the history.
    written = store.read_tagged(history_key(name, channel, record["generation"]))
    return written is not None and written[0] == document(record)


def _add_refusal(store: Store, record: Record) -> Record:
    when = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    folder = channel_folder(record["model_name"], record["channel"])
    store.put_if_absent(f"{folder}/refused/{when}-{record['id'][:8]}.json", document(record))
    return record


def _add_to_history(store: Store, name: str, channel: str, record: Record) -> None:
    store.put_if_absent(history_key(name, channel, record["generation"]), document(record))


def _read_pointer(
    store: Store, name: str, channel: str, verifier: Verifier | None = None
) -> tuple[Record, Tag] | None:
    key = pointer_key(check_model_name(name), check_channel(channel))
    seen = [] if verifier is None else seen_generations(store, name, channel)
    tagged = store.read_tagged(key)
    found = tagged and (parse_move(tagged[0], store.uri(key), name, channel), tagged[1])
    if verifier is not None:
        verifier.check_pointer(store, name, channel, found[0] if found else None, seen)
    return found


def parse_move(data: bytes, uri: str, name: str, channel: str) -> Record:
    """The record of a move. Raises DamagedObjectError, also if it belongs to another channel."""
    record = decode(Move, data, uri)
    if (record["model_name"], record["channel"]) != (name, channel):
        raise DamagedObjectError(
            f"{uri} is damaged: it is a record of {record['model_name']}, {record['channel']}"
        )
    return record
