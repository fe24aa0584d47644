"""What a failed TLS handshake means, and what to do about it."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from components.kube.kubeconfig import CA_VARIABLE
from pipelines.kfp_client.connection import Connection

TIMEOUT_S = 5.0
# OpenSSL's verify codes (X509_V_ERR_...).
UNKNOWN_AUTHORITY = {2, 18, 19, 20, 21}
WRONG_NAME = {62, 64}
WRONG_TIME = {9, 10}
# OpenSSL's names for what a server that speaks plain HTTP answers.
NO_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"}
NO_CERTIFICATES = {"NO_CERTIFICATE_OR_CRL_FOUND", "NO_CERTS_FOUND"}


@dataclass(frozen=True)
class TlsFailure:
    what: str
    remedy: str
    lasting: bool  # trying again does not help


def ssl_error(error: BaseException | None) -> ssl.SSLError | None:
    """OpenSSL's own error behind urllib3's; None if it is something else."""
    while error is not None:
        for each in (error, *error.args):
            if isinstance(each, ssl.SSLError):
                return each
        error = error.__cause__ or error.__context__
    return None


def tls_failure(error: ssl.SSLError, connection: Connection) -> TlsFailure:
    """The failure in words. Asks the server for its certificate where its authority is unknown."""
    reason = error.reason or ""
    said = reason.lower().replace("_", " ") or str(error.args[-1])
    if isinstance(error, ssl.SSLCertVerificationError):
        return _not_verified(error, connection)
    if reason in NO_TLS:
        return TlsFailure("it does not speak TLS", "write http:// instead of https://", True)
    if reason in NO_CERTIFICATES:
        return TlsFailure(
            f"{connection.authorities} holds no certificate",
            "it must be a file of certificates in PEM (-----BEGIN CERTIFICATE-----)",
            True,
        )
    remedy = "if it asks for a client certificate, go through the API server: --endpoint kubeconfig"
    if connection.kubeconfig is not None:
        remedy = "look at client-certificate and client-key of the kubeconfig's user"
    if "ALERT" in reason or "CERTIFICATE" in reason or "KEY_VALUES" in reason:
        return TlsFailure(f"it refuses the connection in TLS ({said})", remedy, True)
    # A server that refuses a certificate may close the connection before that is read.
    return TlsFailure(f"TLS has failed ({said})", remedy, False)


def _not_verified(error: ssl.SSLCertVerificationError, connection: Connection) -> TlsFailure:
    why = error.verify_message.rstrip(".")
    if error.verify_code in UNKNOWN_AUTHORITY:
        issuer = _issuer(connection.host)
        by = f"It was issued by {issuer}, which" if issuer else "Its issuer"
        return TlsFailure(
            f"its TLS certificate cannot be verified ({why}). {by} is not among those trusted: "
            f"{connection.authorities}",
            _authority_remedy(connection),
            True,
        )
    if error.verify_code in WRONG_NAME:
        remedy = "use an address that the certificate is for"
        if connection.kubeconfig is not None:
            remedy += f", as server of cluster {connection.kubeconfig.cluster!r} in the kubeconfig "
            remedy += "(or as its tls-server-name)"
        return TlsFailure(f"its TLS certificate is for another host ({why})", remedy, True)
    if error.verify_code in WRONG_TIME:
        remedy = "its administrator must renew it; if it is valid, correct this machine's clock"
        return TlsFailure(f"its TLS certificate is not valid today ({why})", remedy, True)
    return TlsFailure(
        f"its TLS certificate cannot be verified ({why})", _authority_remedy(connection), True
    )


def _authority_remedy(connection: Connection) -> str:
    kubeconfig = connection.kubeconfig
    if kubeconfig is None:
        return (
            f"set ${CA_VARIABLE} to the file (PEM) with the certificate of that authority; the "
            "administrator of the endpoint has it"
        )
    return (
        f"fetch the kubeconfig again, or: kubectl config set-cluster {kubeconfig.cluster} "
        f"--certificate-authority=CA.PEM --embed-certs (without one, ${CA_VARIABLE} counts)"
    )


def _issuer(url: str) -> str | None:
    """Who issued the server's certificate, as far as that can be found out."""
    parts = urlsplit(url)
    address = (parts.hostname or "", parts.port or 443)
    try:
        certificate = ssl.get_server_certificate(address, timeout=TIMEOUT_S)
        # Trusted for this one look, since Python decodes no certificate that it has not verified.
        context = ssl.create_default_context(cadata=certificate)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        with (
            socket.create_connection(address, TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=parts.hostname) as wrapped,
        ):
            issuer: Any = (wrapped.getpeercert() or {}).get("issuer", ())
    except (OSError, ValueError):
        return None
    names = [f"{key}={value}" for part in issuer for key, value in part]
    return f"'{', '.join(names)}'" if names else None
