"""Signatures: whoever holds a key vouches for a version's manifest, whose digests cover the rest.

Made and checked by model-signing (the extra `signing`), in a form that others' tools check, too:
`model_signing verify key OUT.json --signature OUT.sig --public_key PUBLIC.pem`. Keys are EC keys in
PEM; keyless signing by Sigstore needs its servers and is not offered.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sdpose.errors import UserError
from sdpose.registry.documents import Signature, decode, document, new_document
from sdpose.registry.layout import signature_key
from sdpose.registry.versions import ModelVersion, manifest_bytes
from sdpose.storage import DamagedObjectError, ObjectNotFoundError, Store

PASSWORD_VARIABLE = "SDPOSE_SIGNING_PASSWORD"
NEW_KEY = "`openssl ecparam -name prime256v1 -genkey -noout -out KEY.pem` makes one"
ITS_PUBLIC_KEY = "`openssl ec -in KEY.pem -pubout -out PUBLIC.pem` writes that of KEY.pem"


class SignatureError(UserError):
    """A version is not signed, or not by this key."""


class Signer:
    """Raises UserError if model-signing is not installed, or the file is no private key."""

    def __init__(self, private_key: Path) -> None:
        with _model_signing():
            from model_signing import signing
        password = os.environ.get(PASSWORD_VARIABLE)
        with _reading(private_key, f"no private EC key; {NEW_KEY} (${PASSWORD_VARIABLE})"):
            self._config = signing.Config().use_elliptic_key_signer(
                private_key=private_key, password=password.encode() if password else None
            )

    def sign(self, store: Store, version: ModelVersion) -> None:
        """Puts the signature beside the manifest, in place of an earlier one."""
        with tempfile.TemporaryDirectory(prefix="sdpose-sign-") as folder:
            manifest, signature = Path(folder) / "manifest.json", Path(folder) / "signature"
            manifest.write_bytes(manifest_bytes(store, version))
            self._config.sign(manifest, signature)
            bundle = json.loads(signature.read_bytes())
        key = signature_key(version.model_name, version.version)
        store.put(key, document(new_document(Signature, {"bundle": bundle})))


class Verifier:
    """Raises UserError if model-signing is not installed, or the file is no public key."""

    def __init__(self, public_key: Path) -> None:
        with _model_signing():
            from model_signing import verifying
        self._public_key = public_key
        with _reading(public_key, f"no public EC key; {ITS_PUBLIC_KEY}"):
            self._config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)

    def check(self, store: Store, version: ModelVersion) -> None:
        """Raises SignatureError unless the manifest, as the store has it, was signed by the key."""
        who = f"{version.model_name} version {version.version}"
        bundle = read_signature(store, version)
        if bundle is None:
            raise SignatureError(
                f"{who} is not signed; `sdpose registry sign {version.model_name}@"
                f"{version.version} --key KEY.pem` does it"
            )
        with tempfile.TemporaryDirectory(prefix="sdpose-verify-") as folder:
            manifest, signature = Path(folder) / "manifest.json", Path(folder) / "signature"
            manifest.write_bytes(manifest_bytes(store, version))
            signature.write_text(json.dumps(bundle), encoding="utf-8")
            try:
                self._config.verify(manifest, signature)
            except Exception as error:  # of many kinds, by what is wrong with the bundle
                raise SignatureError(
                    f"{who} was not signed with the key of {self._public_key}: {_first(error)}"
                ) from None


def read_signature(store: Store, version: ModelVersion) -> dict[str, Any] | None:
    """The Sigstore bundle; None if the version is not signed.

    Raises DamagedObjectError if it is not what was written, or of another manifest. Whose it is
    only `Verifier.check` can tell.
    """
    key = signature_key(version.model_name, version.version)
    try:
        data = store.read(key)
    except ObjectNotFoundError:
        return None
    bundle = decode(Signature, data, store.uri(key))["bundle"]
    try:
        statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        (resource,) = statement["predicate"]["resources"]
        digest = resource["digest"]
    except (KeyError, TypeError, ValueError):
        digest = None
    if digest != version.manifest_sha256:
        raise DamagedObjectError(f"{store.uri(key)} is the signature of another manifest")
    return dict(bundle)


@contextlib.contextmanager
def _model_signing() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"signatures need model-signing ({error}): pip install 'sdpose[signing]'"
        ) from None


@contextlib.contextmanager
def _reading(key: Path, otherwise: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot read the key {key}: {error.strerror}") from None
    except Exception as error:  # of many kinds, by what the file is instead
        raise UserError(f"{key}: {otherwise}: {_first(error)}") from None


def _first(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
