"""The S3 client and its configuration.

Endpoint, region, credentials (static, profile, IRSA or pod identity, machine role), CA bundle and
proxies are those of AWS's own tools: AWS_ENDPOINT_URL_S3, AWS_REGION (else AWS_DEFAULT_REGION),
AWS_ACCESS_KEY_ID, AWS_WEB_IDENTITY_TOKEN_FILE, AWS_CA_BUNDLE, AWS_MAX_ATTEMPTS, ~/.aws and so on.
Our own variables:

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

from sdpose import retry
from sdpose.credentials import without_secrets
from sdpose.errors import UserError

CONNECT_SECONDS = 10
MAX_CONNECTIONS = 32


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
        # boto3 reads AWS_DEFAULT_REGION only. AWS's other tools, and the webhooks that give a pod
        # its role, set AWS_REGION, which wins there.
        session = boto3.session.Session(region_name=os.environ.get("AWS_REGION") or None)
        return session.client(
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
        made.meta.events.register_first("needs-retry.s3.HeadBucket", _report_redirect)
    except (BotoCoreError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"the S3 configuration is wrong: {without_secrets(str(error))}") from None
    return made


def attempts() -> int:
    """$AWS_MAX_ATTEMPTS, else 6."""
    configured = os.environ.get("AWS_MAX_ATTEMPTS", "")
    return max(int(configured), 1) if configured.isdecimal() else retry.ATTEMPTS


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


def _report_redirect(response: Any, operation: Any, **_: Any) -> None:
    """Ends an endless loop: on a redirect without a region, botocore asks for the region with HEAD
    of the bucket, also when that request itself was redirected."""
    from botocore.exceptions import ClientError

    if response is None:
        return
    http, parsed = response
    redirected = 300 <= http.status_code < 400
    if redirected and "x-amz-bucket-region" not in parsed["ResponseMetadata"]["HTTPHeaders"]:
        raise ClientError(parsed, operation.name)


def _check_endpoint(url: str) -> None:
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:
        raise UserError(
            f"the S3 endpoint at {parts.hostname} has credentials or a query in its URL: give "
            "scheme, host and port only, and credentials as AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        )


def _check_ca_bundle() -> None:
    """botocore reads it when it connects, and reports a bad one as a failed connection."""
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
