"""Who vouches for a version: real EC keys, and model-signing's own command as a second opinion."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from made import Register
from signing_keys import write_pair

from sdpose.cli import main
from sdpose.errors import UserError
from sdpose.registry import pull, read_version
from sdpose.registry.documents import document, sealed
from sdpose.registry.gc import gc
from sdpose.registry.layout import blob_key, manifest_key, signature_key
from sdpose.registry.signatures import SignatureError, Signer, Verifier
from sdpose.registry.verify import verify
from sdpose.storage import DamagedObjectError, Store

PASSWORD = b"not in any message"


@pytest.fixture(scope="module")
def other_public(other_keys: tuple[Path, Path]) -> Path:
    return other_keys[1]


def test_only_what_the_key_signed_is_pulled(
    store: Store, register: Register, keys: tuple[Path, Path], other_public: Path, tmp_path: Path
) -> None:
    private, public = keys
    signed, unsigned = register(1, signer=Signer(private)), register(2)
    pulled = pull(store, "tiny@1", tmp_path / "out.safetensors", Verifier(public))
    assert pulled.signature == tmp_path / "out.safetensors.sig"
    # Somebody who has only model-signing, the files and the key.
    files = [pulled.manifest, "--signature", pulled.signature, "--public_key", public]
    told = subprocess.run(
        [sys.executable, "-m", "model_signing", "verify", "key", *files],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr

    target = tmp_path / "other.safetensors"
    with pytest.raises(SignatureError, match="tiny version 2 is not signed; `sdpose registry sign"):
        pull(store, "tiny@2", target, Verifier(public))
    with pytest.raises(SignatureError, match=r"was not signed with the key of .*: Key mismatch"):
        pull(store, "tiny@1", target, Verifier(other_public))
    assert not target.exists()
    assert verify(store) == []
    (problem,) = verify(store, verifier=Verifier(public))
    assert problem.uri == unsigned.manifest_uri
    assert len(verify(store, verifier=Verifier(other_public))) == 2

    # What was there unsigned is signed later, and signed again after a key was changed.
    Signer(private).sign(store, unsigned)
    assert verify(store, verifier=Verifier(public)) == []
    assert pull(store, "tiny@2", target).signature is not None
    assert gc(store).marked == ()
    assert read_version(store, "tiny", 1).manifest_sha256 == signed.manifest_sha256


def test_whoever_can_write_but_has_no_key_changes_nothing_unseen(
    store: Store, register: Register, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    private, public = keys
    signed = register(1, signer=Signer(private))
    other = register(2)
    key, target = manifest_key("tiny", 1), tmp_path / "out.safetensors"
    original = store.read(key)

    # Another figure, sealed again.
    content = {k: v for k, v in json.loads(original).items() if k != "sealed_sha256"}
    store.put(key, document(sealed(content | {"metrics": {"AP": 0.99}})))
    for verifier in (None, Verifier(public)):
        with pytest.raises(DamagedObjectError, match="is the signature of another manifest"):
            pull(store, "tiny@1", target, verifier)
    assert store.uri(signature_key("tiny", 1)) in {p.uri for p in verify(store)}
    store.put(key, original)

    # Its weights.
    blob = store.read(blob_key(signed.sha256))
    store.put(blob_key(signed.sha256), store.read(blob_key(other.sha256)))
    with pytest.raises(DamagedObjectError):
        pull(store, "tiny@1", target, Verifier(public))
    store.put(blob_key(signed.sha256), blob)

    # A signature that says the right digest, with other bytes below it.
    document_ = json.loads(store.read(signature_key("tiny", 1)))
    document_["bundle"]["dsseEnvelope"]["signatures"][0]["sig"] = "AAAA"
    store.put(signature_key("tiny", 1), document(sealed({"bundle": document_["bundle"]})))
    with pytest.raises(SignatureError, match="was not signed with the key"):
        pull(store, "tiny@1", target, Verifier(public))
    assert not target.exists()

    # One bit of it.
    store.put(signature_key("tiny", 1), store.read(signature_key("tiny", 1))[:-9] + b"x\n}\n")
    (problem,) = verify(store)
    assert problem.uri == store.uri(signature_key("tiny", 1))


def test_keys_that_are_none(
    keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = keys
    rsa_key = tmp_path / "rsa.pem"
    rsa_key.write_bytes(
        rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    for wrong in (public, rsa_key):
        with pytest.raises(UserError, match=r"no private EC key; `openssl ecparam"):
            Signer(wrong)
    with pytest.raises(UserError, match=r"no public EC key; `openssl ec -in"):
        Verifier(private)
    with pytest.raises(UserError, match=r"cannot read the key .*: No such file"):
        Verifier(tmp_path / "missing.pem")

    locked, _ = write_pair(tmp_path, "locked", PASSWORD)
    with pytest.raises(UserError, match=r"\$SDPOSE_SIGNING_PASSWORD"):
        Signer(locked)
    monkeypatch.setenv("SDPOSE_SIGNING_PASSWORD", "wrong")
    with pytest.raises(UserError, match=r"no private EC key"):
        Signer(locked)
    monkeypatch.setenv("SDPOSE_SIGNING_PASSWORD", PASSWORD.decode())
    Signer(locked)


def test_commands(
    register: Register,
    root: str,
    keys: tuple[Path, Path],
    other_public: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    private, public = keys
    register(1)

    def sdpose(*arguments: object) -> tuple[int, str, str]:
        command = ["sdpose", "registry", *map(str, arguments), "--registry", root]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capsys.readouterr()

    out = tmp_path / "out.safetensors"
    code, _, error = sdpose("pull", "tiny@1", out, "--public-key", public)
    assert (code, "is not signed" in error, out.exists()) == (2, True, False)
    assert sdpose("sign", "tiny@1", "--key", private)[:2] == (0, "tiny version 1: signed\n")
    code, answer, _ = sdpose("pull", "tiny@1", out, "--public-key", public, "--json")
    assert (code, json.loads(answer)["signature"]) == (0, f"{out}.sig")
    assert sdpose("verify", "--public-key", public)[0] == 0
    code, answer, _ = sdpose("verify", "--public-key", other_public)
    assert (code, "was not signed with the key" in answer) == (1, True)
    again = ("register", "tiny", tmp_path / "epoch_1.pth", "--sign", private)
    assert sdpose(*again)[0] == 0

    monkeypatch.setitem(sys.modules, "model_signing", None)
    code, _, error = sdpose("sign", "tiny@1", "--key", private)
    assert (code, "[signing]'" in error) == (2, True)
    assert sdpose("pull", "tiny@1", out)[0] == 0  # needs it only to check
