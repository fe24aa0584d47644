"""Which weights a registry needs, from three sources that must agree.

An incomplete listing (a folder that cannot be read, a share that returns nothing, a bucket with
late listings) looks like a registry that needs fewer weights. So the manifests are compared with
the index, with the channels' records, and with the number of versions at the last gc. Weights are
deleted only if all agree.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from sdpose.errors import UserError
from sdpose.registry.channels import Record, current, history
from sdpose.registry.documents import Seen, decode, document, new_document
from sdpose.registry.layout import CHANNELS, NAME, SEEN, index_key, manifest_key
from sdpose.registry.versions import NEW_INDEX, parse_index, read_versions, version_numbers
from sdpose.registry.withdrawals import read_withdrawals
from sdpose.storage import DamagedObjectError, ObjectNotFoundError, Store

SHOWN = 10


class DisagreementError(UserError):
    """The sources of a registry disagree on its versions."""


@dataclass
class References:
    weights: set[str] = field(default_factory=set)  # SHA-256
    versions: dict[str, int] = field(default_factory=dict)  # number of versions by model


def read_references(store: Store) -> References:
    """The weights that a version, a channel or its history names; a withdrawn version needs none.

    Raises:
        DisagreementError: see the module.
        DamagedObjectError: a document cannot be read; it could name any weights.
    """
    found, problems = References(), list[str]()
    seen = _read_seen(store)
    listed = {PurePosixPath(key).parts[1] for key in store.list("models") if key.count("/") > 1}
    for name in sorted(filter(NAME.fullmatch, listed | seen.keys())):
        problems += _read_model(store, name, found)
        there = found.versions.get(name, 0)
        if there < seen.get(name, 0):
            problems.append(
                f"{name} has {there} versions, and had {seen[name]} at the last gc (if they were "
                f"removed on purpose, delete {store.uri(SEEN)})"
            )
    if problems:
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise DisagreementError(
            "\n  ".join(
                [
                    "nothing is removed, because the registry does not agree with itself:",
                    *problems[:SHOWN],
                    *more,
                    "Restore what is missing, or withdraw the version (`sdpose registry withdraw`)",
                ]
            )
        )
    return found


def remember_seen(store: Store, found: References) -> None:
    data = document(new_document(Seen, {"versions": found.versions}))
    known = store.read_tagged(SEEN)
    if known is None or known[0] != data:
        store.put(SEEN, data)


def _read_seen(store: Store) -> dict[str, int]:
    try:
        return dict(decode(Seen, store.read(SEEN), store.uri(SEEN))["versions"])
    except ObjectNotFoundError:
        return {}


def _read_model(store: Store, name: str, found: References) -> list[str]:
    """Adds the weights that the documents of a model name; returns their disagreements."""
    # The listing last: what a record or the index names was there before it.
    withdrawn = read_withdrawals(store, name)
    records, problems = _read_channels(store, name)
    index = _read_index(store, name)
    numbers = version_numbers(store, name)
    found.versions[name] = len(set(numbers) | withdrawn.keys())

    wanted = dict.fromkeys(range(1, max(numbers, default=0) + 1), "a later one is there")
    wanted |= dict.fromkeys(index, "the index has it")
    wanted |= {record["version"]: f"{record['channel']} has or had it" for record in records}
    there = set(numbers) - withdrawn.keys()
    for number, why in sorted(wanted.items()):
        if number in there or number in withdrawn:
            continue
        if store.exists(manifest_key(name, number)):  # the listing was late
            there.add(number)
        else:
            problems.append(f"{name} version {number}: the manifest is missing, and {why}")
    versions = {v.version: v for v in read_versions(store, name, sorted(there))}
    found.weights |= {version.sha256 for version in versions.values()}
    for record in records:
        if record["version"] in withdrawn:
            continue
        found.weights.add(record["sha256"])
        version = versions.get(record["version"])
        if version is not None and version.manifest_sha256 != record["manifest_sha256"]:
            problems.append(
                f"{name} version {version.version}: it is not the one that {record['channel']} "
                f"got in generation {record['generation']}"
            )
    return problems


def _read_channels(store: Store, name: str) -> tuple[list[Record], list[str]]:
    records, problems = [], []
    for channel in CHANNELS:
        moves = history(store, name, channel)
        if moves and current(store, name, channel) is None:
            problems.append(f"{name}: {channel} has a history, and its pointer is missing")
        records += moves
    return records, problems


def _read_index(store: Store, name: str) -> Iterable[int]:
    """The versions that the index has. DamagedObjectError for one that cannot be read."""
    key = index_key(name)
    try:
        return parse_index(store.read(key), store.uri(key)).keys()
    except ObjectNotFoundError:
        return ()
    except DamagedObjectError as error:
        raise type(error)(f"{error}; {NEW_INDEX}") from None
