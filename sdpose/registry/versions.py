"""Versions of a model: weights under their SHA-256, and one immutable manifest each.

The registry numbers its versions itself. MLflow's own numbers differ after a change of server, a
deleted version or two registrations at once, so they are links only, see `mlflow_mirror.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from sdpose.errors import UserError
from sdpose.registry.documents import (
    MANIFEST_FORMAT,
    Index,
    Manifest,
    NewManifest,
    check_shape,
    decode,
    digest_of,
    document,
    figure,
    new_document,
    read_sealed,
)
from sdpose.registry.layout import (
    NAME,
    blob_key,
    check_model_name,
    index_key,
    manifest_key,
    number_of,
    versions_folder,
)
from sdpose.registry.withdrawals import read_withdrawals
from sdpose.storage import DamagedObjectError, ObjectNotFoundError, Store

# The fields of a manifest that make another version; the others describe it.
IDENTITY = ("weights", "dataset_digest", "evaluation_settings_digest")
# `list` rewrites an index that lacks this many manifests.
STALE_INDEX = 16
READERS = 16
NEW_INDEX = "delete it, and the next registration writes a new one"
WITHDRAW = "`sdpose registry withdraw` takes the version out of use"
NO_SUMMARY: dict[str, Any] = {
    **dict.fromkeys(("identity", "dataset_digest", "evaluation_settings_digest"), ""),
    **{"AP": None, "registered_at": "", "sha256": "", "size": 0, "exp_name": ""},
}


@dataclass(frozen=True)
class ModelVersion:
    """A version as it is stored.

    Attributes:
        version: counts from 1 in each model.
        created: False if the same content was registered before.
    """

    model_name: str
    version: int
    manifest: dict[str, Any]
    manifest_sha256: str
    manifest_uri: str
    weights_uri: str
    created: bool = False

    @property
    def sha256(self) -> str:
        """Of the weights."""
        return str(self.manifest["weights"]["sha256"])


def digests_of(manifest: dict[str, Any]) -> dict[str, str]:
    """The digests that follow from the rest of a manifest."""
    settings = digest_of(manifest["evaluation_settings"])
    content = manifest | {"evaluation_settings_digest": settings}
    return {
        "evaluation_settings_digest": settings,
        "identity": digest_of({key: content[key] for key in IDENTITY}),
    }


def create_version(store: Store, model_name: str, manifest: dict[str, Any]) -> ModelVersion:
    """Creates the next version from a manifest, unless one in use has the same content.

    The weights must be in the store already. Content of a withdrawn version gets a new number.
    Every writer tries the next free number, and reads the version of a writer that was faster: so
    no content gets two versions, and no lock is needed.

    Returns:
        The new version, or the one with the same content (`created` is False).
    """
    check_model_name(model_name)
    identity = manifest["identity"]
    withdrawn = read_withdrawals(store, model_name)
    summaries = summarize(store, model_name, withdrawn=withdrawn)
    for summary in summaries:
        if summary["identity"] == identity and summary["version"] not in withdrawn:
            return read_version(store, model_name, summary["version"])
    number = max([*withdrawn, *(summary["version"] for summary in summaries)], default=0) + 1
    while not store.put_if_absent(
        manifest_key(model_name, number),
        document(new_document(NewManifest, manifest | {"version": number})),
    ):
        taken = read_version(store, model_name, number)
        if taken.manifest["identity"] == identity:
            return taken
        number += 1
    version = read_version(store, model_name, number, created=True)
    known = [summary for summary in summaries if "problem" not in summary]
    _write_index(store, model_name, [*known, summary_of(version.manifest)])
    return version


def read_version(
    store: Store, model_name: str, version: int, *, created: bool = False
) -> ModelVersion:
    """Reads one version.

    Raises:
        UserError: there is no such version; the message names those that exist.
        DamagedObjectError: its manifest is not the one that was written.
    """
    key = manifest_key(check_model_name(model_name), version)
    try:
        data = store.read(key)
    except ObjectNotFoundError:
        numbers = version_numbers(store, model_name)
        there = f"versions {', '.join(map(str, numbers[-10:]))}" if numbers else "no versions of it"
        raise UserError(
            f"{model_name} version {version} is not in the registry: there are {there}"
        ) from None
    manifest = _parse_manifest(data, store.uri(key), model_name, version)
    return ModelVersion(
        model_name=model_name,
        version=version,
        manifest=manifest,
        manifest_sha256=hashlib.sha256(data).hexdigest(),
        manifest_uri=store.uri(key),
        weights_uri=store.uri(blob_key(manifest["weights"]["sha256"])),
        created=created,
    )


def manifest_bytes(store: Store, version: ModelVersion) -> bytes:
    """The bytes of a version's manifest. Raises DamagedObjectError if they have changed since."""
    data = store.read(manifest_key(version.model_name, version.version))
    if hashlib.sha256(data).hexdigest() != version.manifest_sha256:
        raise DamagedObjectError(f"{version.manifest_uri} has changed: manifests never do")
    return data


def model_names(store: Store) -> list[str]:
    """All models that have a version."""
    names = {PurePosixPath(key).parts[1] for key in store.list("models") if "/versions/" in key}
    return sorted(filter(NAME.fullmatch, names))  # `verify` reports other names


def summarize(
    store: Store,
    model_name: str,
    *,
    by_index: bool = False,
    withdrawn: Collection[int] = (),
    tolerant: bool = False,
) -> list[dict[str, Any]]:
    """A summary of every version, as `list` shows it, oldest first.

    Takes one listing and one read, however many versions there are: a manifest is read only if the
    index lacks it (two writers replaced the index at once).

    Args:
        by_index: skips the listing, which on S3 takes a request for each 1,000 versions. A version
            whose manifest was removed by hand is still shown then; `verify` reports it.
        withdrawn: versions whose manifest may be unreadable.
        tolerant: any manifest may be unreadable.
    Returns:
        A row for each version: version, identity, AP, exp_name, dataset_digest, registered_at,
        sha256, size. That of an unreadable manifest has `version` and `problem`, and None or ""
        for the rest.
    """
    index = read_index(store, model_name)
    numbers = (by_index and _numbers_of(store, model_name, index)) or version_numbers(
        store, model_name
    )
    # Earlier versions wrote rows without the experiment's name.
    missing = [n for n in numbers if n not in index or not index[n].get("exp_name")]

    def read(number: int) -> dict[str, Any]:
        try:
            return summary_of(read_version(store, model_name, number).manifest)
        except UserError as error:
            if number in index:
                return index[number]
            if not isinstance(error, DamagedObjectError):
                raise
            if tolerant or number in withdrawn:
                return NO_SUMMARY | {"version": number, "problem": str(error)}
            raise type(error)(f"{error}; {WITHDRAW}") from None

    with ThreadPoolExecutor(READERS) as pool:
        index |= dict(zip(missing, pool.map(read, missing), strict=True))
    summaries = [index[number] for number in numbers]
    if len(missing) >= STALE_INDEX:
        with contextlib.suppress(UserError):  # a reader may lack the right to write
            _write_index(store, model_name, [row for row in summaries if "problem" not in row])
    return summaries


def versions(store: Store, model_name: str) -> Iterator[ModelVersion]:
    """Every version in use with its manifest, oldest first; takes a read for each."""
    withdrawn = read_withdrawals(store, model_name)
    numbers = version_numbers(store, model_name)
    yield from read_versions(store, model_name, [n for n in numbers if n not in withdrawn])


def read_versions(store: Store, model_name: str, numbers: list[int]) -> Iterator[ModelVersion]:
    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(lambda n: read_version(store, model_name, n), numbers)


def version_numbers(store: Store, model_name: str) -> list[int]:
    """The numbers of all listed versions, in order."""
    names = (PurePosixPath(key).name for key in store.list(versions_folder(model_name)))
    numbers = (number_of(name.removesuffix(".json")) for name in names if name.endswith(".json"))
    return sorted(number for number in numbers if number is not None)


def _numbers_of(store: Store, model_name: str, index: dict[int, Any]) -> list[int]:
    """The numbers of all versions, if the index has those up to some number, else [].

    `create_version` leaves no gap, so the first free number ends them.
    """
    numbers = sorted(index)
    if numbers != list(range(1, len(numbers) + 1)):
        return []
    while numbers and len(numbers) < len(index) + STALE_INDEX:
        if not store.exists(manifest_key(model_name, len(numbers) + 1)):
            return numbers
        numbers.append(len(numbers) + 1)
    return []


def summary_of(manifest: dict[str, Any]) -> dict[str, Any]:
    return {
        "version": manifest["version"],
        "identity": manifest["identity"],
        "AP": figure(manifest["metrics"]),
        "dataset_digest": manifest["dataset_digest"],
        "evaluation_settings_digest": manifest["evaluation_settings_digest"],
        "registered_at": manifest["registered_at"],
        "sha256": manifest["weights"]["sha256"],
        "size": manifest["weights"]["size"],
        "exp_name": _exp_name(manifest["experiment"]),
    }


def _exp_name(experiment: str) -> str:
    """The name in an experiment as `dump_experiment` writes it; parsing it takes 10 ms."""
    found = re.search(r"^exp_name: ['\"]?([\w.-]+)['\"]?$", experiment, re.MULTILINE)
    return found[1] if found else "-"


def read_index(store: Store, model_name: str) -> dict[int, dict[str, Any]]:
    """The rows by version; {} if the index is missing or damaged: it can be derived again."""
    try:
        return parse_index(store.read(index_key(model_name)), store.uri(index_key(model_name)))
    except (ObjectNotFoundError, DamagedObjectError):
        return {}


def parse_index(data: bytes, uri: str) -> dict[int, dict[str, Any]]:
    """Raises DamagedObjectError."""
    rows = decode(Index, data, uri)["versions"]
    for row in rows:
        row["AP"] = figure(row)  # earlier writers let NaN through
    return {row["version"]: row for row in rows}


def _write_index(store: Store, model_name: str, summaries: list[dict[str, Any]]) -> None:
    content = new_document(Index, {"versions": summaries})
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    store.put(index_key(model_name), text.encode())


def _parse_manifest(data: bytes, uri: str, model_name: str, version: int) -> dict[str, Any]:
    manifest = read_sealed(data, uri)
    written_as = manifest.get("format")
    if isinstance(written_as, str) and written_as != MANIFEST_FORMAT:
        raise UserError(
            f"{uri} has the format {written_as!r}; this version of sdpose reads {MANIFEST_FORMAT!r}"
        )
    check_shape(Manifest, manifest, uri)
    if (manifest["model_name"], manifest["version"]) != (model_name, version):
        raise DamagedObjectError(
            f"{uri} is damaged: it is the manifest of {manifest['model_name']} version "
            f"{manifest['version']}"
        )
    return manifest
