"""Certificates for servers and clients of the tests, and authorities that issue them."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ADDRESS = "127.0.0.1"


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Of 127.0.0.1; it, which is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("of the tests")
    builder = _certificate(name, key, authority=True).issuer_name(name)
    builder = builder.add_extension(_address(ADDRESS), critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    return _written(folder, "certificate.pem", "key.pem", certificate, key)


class Authority:
    """A certificate authority. file: its own certificate (PEM)."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._name = folder, _name(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        own = _certificate(self._name, self._key, authority=True).issuer_name(self._name)
        self.file, _ = _written(
            folder, "ca.pem", "ca-key.pem", own.sign(self._key, hashes.SHA256()), self._key
        )

    def issue(self, name: str, address: str = "", *, days: int = 1) -> tuple[Path, Path]:
        """A certificate and its key. address: of a server. days: from now on; -1: expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _certificate(_name(name), key, days=days).issuer_name(self._name)
        if address:
            builder = builder.add_extension(_address(address), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return _written(self._folder, f"{name}.pem", f"{name}-key.pem", certificate, key)


def _certificate(
    name: x509.Name, key: ec.EllipticCurvePrivateKey, *, days: int = 1, authority: bool = False
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    constraints = x509.BasicConstraints(ca=authority, path_length=0 if authority else None)
    return (
        x509.CertificateBuilder(subject_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(constraints, critical=True)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _address(text: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(text))])


def _written(
    folder: Path,
    certificate_name: str,
    key_name: str,
    certificate: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
) -> tuple[Path, Path]:
    encoding = serialization.Encoding.PEM
    paths = folder / certificate_name, folder / key_name
    paths[0].write_bytes(certificate.public_bytes(encoding))
    paths[1].write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths
