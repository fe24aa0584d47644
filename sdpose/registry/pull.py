"""Downloads a version to a file; needs the store only, as on an edge device."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from sdpose.errors import UserError
from sdpose.files import sha256_of_file
from sdpose.registry.channels import check_promoted, current
from sdpose.registry.layout import CHANNELS, blob_key, manifest_key, number_of
from sdpose.registry.signatures import Verifier, read_signature
from sdpose.registry.versions import ModelVersion, read_version
from sdpose.registry.withdrawals import explain_withdrawal, read_withdrawals
from sdpose.storage import Store


@dataclass(frozen=True)
class Pulled:
    version: ModelVersion
    weights: Path
    manifest: Path
    signature: Path | None


def resolve(
    store: Store,
    reference: str,
    *,
    also_withdrawn: bool = False,
    verifier: Verifier | None = None,
) -> ModelVersion:
    """The version that `MODEL@CHANNEL` or `MODEL@VERSION` names.

    For a channel, the manifest is compared with the digest that was promoted.

    Args:
        also_withdrawn: accept a withdrawn version.
        verifier: version and pointer must be signed by its key.
    Raises:
        UserError: the channel is empty, or the version is unknown or withdrawn.
        DamagedObjectError: the manifest is not the one that was promoted.
        SignatureError: a signature is missing or by another key.
        OlderPointerError: this machine has seen a later pointer.
    """
    name, at, which = reference.partition("@")
    if not at or not which:
        raise UserError(
            f"'{reference}' names no version: expected MODEL@CHANNEL "
            f"({', '.join(CHANNELS)}) or MODEL@VERSION, as in sdpose_s_v1@production"
        )
    number = number_of(which)
    if number is None and which.isdigit():
        raise UserError(f"'{which[:20]}' is no version number: expected 1, 2, 3, ...")
    if not also_withdrawn:
        withdrawn = read_withdrawals(store, name)
        if number in withdrawn:
            raise UserError(explain_withdrawal(name, withdrawn[number]))
    if number is not None:
        return _checked(store, read_version(store, name, number), verifier)
    record = current(store, name, which, verifier)
    if record is None:
        raise UserError(f"{name}: the channel {which} is empty; nothing was promoted to it yet")
    if not also_withdrawn and record["version"] in withdrawn:
        what = explain_withdrawal(name, withdrawn[record["version"]])
        raise UserError(f"{what}; {which} points at it still: promote another version")
    version = read_version(store, name, record["version"])
    check_promoted(version, record)
    return _checked(store, version, verifier)


def _checked(store: Store, version: ModelVersion, verifier: Verifier | None) -> ModelVersion:
    if verifier is not None:
        verifier.check(store, version)
    return version


def pull(store: Store, reference: str, out: str | Path, verifier: Verifier | None = None) -> Pulled:
    """Downloads the weights of `MODEL@CHANNEL` or `MODEL@VERSION`.

    An interrupted transfer is resumed by the next call. `out` is replaced when every byte has been
    verified, and left alone if it has these bytes already.

    Args:
        out: the file; MODEL.safetensors in it if it is a folder or ends with a slash. The manifest
            goes to `out`.json and its signature, if any, to `out`.sig.
        verifier: nothing is downloaded unless it accepts the version, see `resolve`.
    """
    return pull_version(store, resolve(store, reference, verifier=verifier), out)


def pull_version(store: Store, version: ModelVersion, out: str | Path) -> Pulled:
    """`pull` of a version that was resolved."""
    bundle = read_signature(store, version)
    weights = Path(out)
    if str(out).endswith("/") or weights.is_dir():
        weights /= f"{version.model_name}.safetensors"
    if not (weights.is_file() and sha256_of_file(weights) == version.sha256):
        store.get_file(blob_key(version.sha256), weights, version.sha256)
    manifest = weights.with_name(weights.name + ".json")
    key = manifest_key(version.model_name, version.version)
    store.get_file(key, manifest, version.manifest_sha256)
    signature = weights.with_name(weights.name + ".sig")
    signature.unlink(missing_ok=True)  # of the previous version
    if bundle is None:
        return Pulled(version, weights, manifest, None)
    signature.write_text(json.dumps(bundle), encoding="utf-8")
    return Pulled(version, weights, manifest, signature)
