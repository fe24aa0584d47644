"""Signatures of versions (of the manifest, whose digests cover the rest) and of channel moves.

Made and verified by model-signing (the extra `signing`); other tools can verify them, too:
`model_signing verify key OUT.json --signature OUT.sig --public_key PUBLIC.pem`. Keys are EC keys in
PEM. Keyless signing by Sigstore needs its servers and is not supported.
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

from sdpose.errors import UserError, how_to_install
from sdpose.registry.documents import SEAL, Signature, decode, document, new_document
from sdpose.registry.layout import signature_key
from sdpose.registry.rollback_protection import Seen, check_generation
from sdpose.registry.versions import ModelVersion, manifest_bytes
from sdpose.storage import DamagedObjectError, ObjectNotFoundError, Store

SIGNING_KEY_VARIABLE = "SDPOSE_SIGNING_KEY"
PASSWORD_VARIABLE = "SDPOSE_SIGNING_PASSWORD"
PUBLIC_KEY_VARIABLE = "SDPOSE_PUBLIC_KEY"
NEW_KEY = "`openssl ecparam -name prime256v1 -genkey -noout -out KEY.pem` makes one"
ITS_PUBLIC_KEY = "`openssl ec -in KEY.pem -pubout -out PUBLIC.pem` writes that of KEY.pem"


class SignatureError(UserError):
    """A version or a move is not signed, or not by this key."""


class Signer:
    """Signs with a private key.

    Raises UserError if model-signing is not installed, or the file is not a private key.
    """

    def __init__(self, private_key: Path) -> None:
        with _model_signing():
            from model_signing import signing
        password = os.environ.get(PASSWORD_VARIABLE)
        with _reading(private_key, f"no private EC key; {NEW_KEY} (${PASSWORD_VARIABLE})"):
            self._config = signing.Config().use_elliptic_key_signer(
                private_key=private_key, password=password.encode() if password else None
            )
            self._public = _public_part(private_key.read_bytes(), password)

    def sign(self, store: Store, version: ModelVersion) -> None:
        """Stores the signature of a version; replaces an earlier one."""
        content = new_document(Signature, {"bundle": self._bundle(manifest_bytes(store, version))})
        store.put(signature_key(version.model_name, version.version), document(content))

    def has_signed(self, store: Store, version: ModelVersion) -> bool:
        with tempfile.TemporaryDirectory(prefix="sdpose-public-") as folder:
            public = Path(folder) / "public.pem"
            public.write_bytes(self._public)
            try:
                Verifier(public).check(store, version)
            except (SignatureError, DamagedObjectError):
                return False
        return True

    def signed(self, record: dict[str, Any]) -> dict[str, Any]:
        """A move's record with its signature; seal it afterwards."""
        return record | {"signature": self._bundle(_signed_part(record))}

    def _bundle(self, content: bytes) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="sdpose-sign-") as folder:
            file, signature = Path(folder) / "document.json", Path(folder) / "signature"
            file.write_bytes(content)
            self._config.sign(file, signature)
            return dict(json.loads(signature.read_bytes()))


class Verifier:
    """Accepts versions and pointers that are signed by a key, and no pointer that is older than one
    that this machine has seen.

    Args:
        allow_older: accept an older pointer once; it is the newest from then on.
    Raises:
        UserError: model-signing is not installed, or the file is not a public key.
    """

    def __init__(self, public_key: Path, *, allow_older: bool = False) -> None:
        with _model_signing():
            from model_signing import verifying
        self._public_key = public_key
        self._allow_older = allow_older
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
        self._check(manifest_bytes(store, version), bundle, who)

    def check_pointer(
        self, store: Store, model_name: str, channel: str, record: dict[str, Any] | None, seen: Seen
    ) -> None:
        """Checks the record of a channel's pointer (None: the channel is empty).

        Args:
            seen: `seen_generations`, read before the pointer.
        Raises:
            SignatureError: it was not signed by the key.
            OlderPointerError: this machine has seen a later one.
        """
        if record is not None:
            self.check_record(record)
        check_generation(store, model_name, channel, record, seen, allow_older=self._allow_older)

    def check_record(self, record: dict[str, Any]) -> None:
        """Raises SignatureError unless the record of a move was signed by the key."""
        who = f"{record['model_name']}: the move of {record['channel']} to {record['version']}"
        bundle = record.get("signature")
        if bundle is None:
            raise SignatureError(
                f"{who} is not signed; if that version belongs there, `sdpose registry sign "
                f"{record['model_name']}@{record['channel']} --key KEY.pem` signs it"
            )
        self._check(_signed_part(record), bundle, who)

    def _check(self, content: bytes, bundle: dict[str, Any], who: str) -> None:
        with tempfile.TemporaryDirectory(prefix="sdpose-verify-") as folder:
            file, signature = Path(folder) / "document.json", Path(folder) / "signature"
            file.write_bytes(content)
            signature.write_text(json.dumps(bundle), encoding="utf-8")
            try:
                self._config.verify(file, signature)
            except Exception as error:  # of many kinds, by what is wrong with the bundle
                raise SignatureError(
                    f"{who} was not signed with the key of {self._public_key}: {_first(error)}"
                ) from None


def signer_of(private_key: str | Path | None = None) -> Signer | None:
    """The signer with a key, default $SDPOSE_SIGNING_KEY; None if there is none."""
    chosen = private_key or os.environ.get(SIGNING_KEY_VARIABLE)
    return Signer(Path(chosen)) if chosen else None


def verifier_of(
    public_key: str | Path | None = None, *, allow_older: bool = False
) -> Verifier | None:
    """The verifier with a key, default $SDPOSE_PUBLIC_KEY; None if there is none.

    Raises:
        UserError: `allow_older` without a key, where nothing is compared.
    """
    chosen = public_key or os.environ.get(PUBLIC_KEY_VARIABLE)
    if chosen:
        return Verifier(Path(chosen), allow_older=allow_older)
    if allow_older:
        raise UserError(
            "--allow-older concerns signed pointers: it needs --public-key or "
            f"{PUBLIC_KEY_VARIABLE}"
        )
    return None


def _public_part(private_pem: bytes, password: str | None) -> bytes:
    from cryptography.hazmat.primitives import serialization as pem  # model-signing needs it, too

    key = pem.load_pem_private_key(private_pem, password.encode() if password else None)
    return key.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)


def _signed_part(record: dict[str, Any]) -> bytes:
    return document({k: v for k, v in record.items() if k not in ("signature", SEAL)})


def read_signature(store: Store, version: ModelVersion) -> dict[str, Any] | None:
    """The Sigstore bundle of a version; None if it is not signed.

    `Verifier.check` tells whose signature it is.

    Raises:
        DamagedObjectError: it is damaged, or of another manifest.
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
            f"signatures need model-signing ({error}): {how_to_install('signing')}"
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
