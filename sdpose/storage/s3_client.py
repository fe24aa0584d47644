"""The one door to boto3: configuration, and what went wrong in words without secrets.

Endpoint, region, credentials (static, profile, IRSA or pod identity, machine role), CA bundle and
proxies come from where AWS's own tools take them: AWS_ENDPOINT_URL_S3, AWS_REGION,
AWS_ACCESS_KEY_ID, AWS_WEB_IDENTITY_TOKEN_FILE, AWS_CA_BUNDLE, AWS_MAX_ATTEMPTS, ~/.aws and so on.
What AWS has no variable for:

    SDPOSE_S3_ADDRESSING      path or virtual; default: virtual at AWS, path anywhere else
    SDPOSE_S3_TIMEOUT         seconds without a byte before a request is tried again; default 60
    SDPOSE_S3_SSE             AES256 or aws:kms: the server has to encrypt what is written
    SDPOSE_S3_SSE_KMS_KEY_ID  the key, for aws:kms
    SDPOSE_S3_SINGLE_WRITER   true: nobody else writes, so conditions need not be the server's
"""

from __future__ import annotations

import logging
import os
import ssl
from typing import Any
from urllib.parse import urlsplit

from sdpose.credentials import invalid_header, without_secrets
from sdpose.errors import UserError
from sdpose.storage.patience import ATTEMPTS, InterruptionError
from sdpose.storage.store import ObjectNotFoundError

CONNECT_SECONDS = 10
MAX_CONNECTIONS = 32

# 4xx that mean "again": damaged or cut on the way, or two conditional writes at once.
_DAMAGED_CODES = {
    "BadDigest",
    "XAmzContentSHA256Mismatch",
    "XAmzContentChecksumMismatch",
    "IncompleteBody",
    "InvalidPart",  # so says a server without checksums of a damaged list of parts
    "MalformedXML",
}
_TRANSIENT_CODES = {
    "RequestTimeout",
    "SlowDown",
    "OperationAborted",
    "ConditionalRequestConflict",
}
_HINTS = {
    "NoSuchBucket": "make the bucket, or correct its name",
    "AccessDenied": "the credentials need s3:GetObject, s3:PutObject, s3:ListBucket there",
    "403": "the credentials need s3:GetObject and s3:ListBucket there",
    "InvalidAccessKeyId": "check AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL_S3",
    "SignatureDoesNotMatch": "check AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "get new credentials",
}


class ConditionFailedError(Exception):
    """The object is not in the state that the request was for (412)."""


class DamagedUploadError(InterruptionError):
    """The server saw that the body is not what was sent."""


class NotImplementedByServerError(Exception):
    """The server does not know this request or this option of it (501)."""


def s3_client() -> Any:
    """A boto3 client for S3. Raises UserError if something in the configuration is wrong."""
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise UserError(f"s3:// needs boto3 ({error}): pip install boto3") from None

    # At DEBUG they write signed headers, session tokens included.
    for name in ("botocore", "boto3", "s3transfer", "urllib3"):
        logging.getLogger(name).setLevel(logging.INFO)
    addressing = _choice("SDPOSE_S3_ADDRESSING", ("path", "virtual"))
    _check_ca_bundle()

    def client(addressing_style: str) -> Any:
        return boto3.session.Session().client(
            "s3",
            config=Config(
                connect_timeout=CONNECT_SECONDS,
                read_timeout=_timeout(),
                max_pool_connections=MAX_CONNECTIONS,
                # `call` says what is worth another try; the caller knows what a lost answer means.
                retries={"total_max_attempts": 1, "mode": "standard"},
                # The server checks the SHA-256 of every body, over TLS too. Checksum trailers,
                # boto3's default, break endpoints that do not know them, and say less.
                s3={"addressing_style": addressing_style, "payload_signing_enabled": True},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    try:
        made = client(addressing or "path")
        _check_endpoint(made.meta.endpoint_url)
        if not addressing and _is_aws(made.meta.endpoint_url):
            made = client("virtual")
    except (BotoCoreError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"the S3 configuration is wrong: {without_secrets(str(error))}") from None
    return made


def attempts() -> int:
    """$AWS_MAX_ATTEMPTS, else 6."""
    configured = os.environ.get("AWS_MAX_ATTEMPTS", "")
    return max(int(configured), 1) if configured.isdigit() else ATTEMPTS


def encryption() -> dict[str, str]:
    """The arguments of a write that ask for encryption at rest."""
    kind = _choice("SDPOSE_S3_SSE", ("AES256", "aws:kms"))
    key = os.environ.get("SDPOSE_S3_SSE_KMS_KEY_ID")
    if key and kind != "aws:kms":
        raise UserError("SDPOSE_S3_SSE_KMS_KEY_ID is set: set SDPOSE_S3_SSE=aws:kms too")
    if not kind:
        return {}
    return {"ServerSideEncryption": kind, **({"SSEKMSKeyId": key} if key else {})}


def single_writer() -> bool:
    return _choice("SDPOSE_S3_SINGLE_WRITER", ("true", "false")) == "true"


def call(operation: Any, where: str, **arguments: Any) -> Any:
    """`operation(**arguments)` of a client; `where` is what messages name.

    Raises ObjectNotFoundError, ConditionFailedError, NotImplementedByServerError, InterruptionError
    for what may go away by itself, UserError for the rest.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return operation(**arguments)
    except ClientError as error:
        raise _refused(error.response, where) from None
    except (BotoCoreError, OSError) as error:
        raise broken(error, where) from None


def broken(error: Exception, where: str) -> Exception:
    """What an error of the connection or of boto3 itself means."""
    from botocore import exceptions
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    if refused := invalid_header(error):
        return UserError(f"{where}: {refused}")
    text = f"{where}: {without_secrets(str(error))}"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return UserError(f"{text}\n  Name the authority's certificate in AWS_CA_BUNDLE.")
    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return UserError(
            f"{where}: no credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_PROFILE, or give the pod or machine a role."
        )
    transient = (
        exceptions.ConnectionError,  # refused or too slow; it is no HTTPClientError
        exceptions.HTTPClientError,
        exceptions.IncompleteReadError,
        exceptions.ReadTimeoutError,
        ResponseParserError,
        HTTPError,
        OSError,
    )
    return InterruptionError(text) if isinstance(error, transient) else UserError(text)


def _refused(response: dict[str, Any], where: str) -> Exception:
    status = response["ResponseMetadata"]["HTTPStatusCode"]
    error = response.get("Error", response)  # STS says it otherwise
    code = str(error.get("Code", status))
    message = error.get("Message", "")
    text = without_secrets(f"{where}: {code}" + (f" ({message})" if message else ""))
    if status == 404 and code != "NoSuchBucket":
        return ObjectNotFoundError(f"{where} does not exist")
    if status == 412:
        return ConditionFailedError(text)
    if status == 501:
        return NotImplementedByServerError(text)
    if code in _DAMAGED_CODES:
        return DamagedUploadError(text)
    if status >= 500 or status == 429 or code in _TRANSIENT_CODES:
        return InterruptionError(text)
    hint = _HINTS.get(code)
    return UserError(f"{text}\n  {hint[0].upper()}{hint[1:]}." if hint else text)


def _check_endpoint(url: str) -> None:
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:
        raise UserError(
            f"the S3 endpoint at {parts.hostname} has credentials or a query in its URL: give "
            "scheme, host and port only, and credentials as AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        )


def _check_ca_bundle() -> None:
    """botocore would look at it when it connects, and call it a failed connection."""
    bundle = os.environ.get("AWS_CA_BUNDLE")
    try:
        if bundle:
            ssl.create_default_context(cafile=bundle)
    except OSError as error:
        raise UserError(
            f"AWS_CA_BUNDLE is '{bundle}': {error}; give a file of certificates (PEM)"
        ) from None


def _is_aws(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))


def _timeout() -> float:
    text = os.environ.get("SDPOSE_S3_TIMEOUT", "60")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < float("inf"):
        raise UserError(f"SDPOSE_S3_TIMEOUT is '{text}': give seconds, more than 0")
    return seconds


def _choice(name: str, allowed: tuple[str, ...]) -> str | None:
    value = os.environ.get(name) or None
    if value is not None and value not in allowed:
        raise UserError(f"{name} is '{value}': allowed are {', '.join(allowed)}")
    return value
