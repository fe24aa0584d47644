"""Turns refused and failed S3 requests into our exceptions, with messages without secrets."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sdpose.credentials import invalid_header, without_secrets
from sdpose.errors import UserError
from sdpose.retry import TransientError
from sdpose.storage.store import ObjectNotFoundError

LONGEST_MESSAGE = 400  # characters of what a server says

Answer = dict[str, Any]

# 4xx to retry: damaged or cut off in transit, or two conditional writes at once.
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
_DENIED_CODES = {"AccessDenied", "AllAccessDisabled", "Forbidden", "403"}
_CLOCK_CODES = {"RequestTimeTooSkewed", "RequestExpired", "RequestNotYetValid"}
_REGION_CODES = {
    "AuthorizationHeaderMalformed",
    "PermanentRedirect",
    "TemporaryRedirect",
    "IllegalLocationConstraintException",
    "InvalidRegion",
}
_HINTS = {
    "NoSuchBucket": "make the bucket, or correct its name",
    "InvalidBucketName": "correct the bucket's name",
    "InvalidAccessKeyId": "check AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL_S3",
    "SignatureDoesNotMatch": "check AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "get new credentials",
    "ExpiredTokenException": "get new credentials",
    "TokenRefreshRequired": "get new credentials",
    "InvalidToken": "check AWS_SESSION_TOKEN: it must belong to AWS_ACCESS_KEY_ID",
    "InvalidObjectState": "the object is in an archive: restore it first",
    "MethodNotAllowed": "the server, or a proxy before it, does not allow this: check "
    "AWS_ENDPOINT_URL_S3",
}
_READING = "s3:GetObject, and s3:ListBucket on the bucket (else a missing object is refused, too)"
_RIGHTS = {
    "head_object": _READING,
    "get_object": _READING,
    "head_bucket": "s3:ListBucket on the bucket",
    "list_objects": "s3:ListBucket on the bucket",
    "list_objects_v2": "s3:ListBucket on the bucket",
    "list_multipart_uploads": "s3:ListBucketMultipartUploads on the bucket",
    "abort_multipart_upload": "s3:AbortMultipartUpload",
    "delete_object": "s3:DeleteObject",
}
_WRITING = "s3:GetObject, s3:PutObject, s3:DeleteObject, and s3:ListBucket on the bucket"


class AccessDeniedError(UserError):
    """The credentials lack a right."""


class ConditionFailedError(UserError):
    """The object is not in the state that the request was for (412)."""


class DamagedUploadError(TransientError):
    """The server found that the body was damaged in transit."""


class NotImplementedByServerError(UserError):
    """The server does not implement this request or one of its options (501)."""


def refused(response: Answer, where: str, request: str, arguments: Answer, url: str) -> Exception:
    """The exception for an answer that is not a success.

    Args:
        response: as botocore has parsed it.
        where: the object, for the message.
        request: its name in boto3.
        url: of the endpoint.
    """
    status = response["ResponseMetadata"]["HTTPStatusCode"]
    error = response.get("Error", response)  # STS says it otherwise
    code, message = shown(error.get("Code") or status), shown(error.get("Message"))
    text = f"{where}: {code}" + (f" ({message})" if message else "")
    if code in _DAMAGED_CODES:
        return DamagedUploadError(text)
    if status == 412:
        return ConditionFailedError(text)
    if status == 501:
        return NotImplementedByServerError(_with_hint(text, _missing_part(arguments)))
    if status >= 500 or status in (408, 429) or code in _TRANSIENT_CODES:
        # A web page in place of a listing is 500, too: botocore makes it so.
        return TransientError(
            text if speaks_s3(response) else str(not_s3(where, _without_s3s_words(response), url))
        )
    if not speaks_s3(response):
        return not_s3(where, _without_s3s_words(response), url)
    if status == 404 and code != "NoSuchBucket":
        return ObjectNotFoundError(f"{where} does not exist")
    if code in _DENIED_CODES:
        return AccessDeniedError(_with_hint(text, _rights(request, arguments)))
    return UserError(_with_hint(text, _hint(code, response)))


def broken(error: Exception, where: str, url: str = "") -> Exception:
    """The exception for a request without an answer, or with one that cannot be parsed."""
    from botocore import exceptions
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    if isinstance(error, ResponseParserError):
        if "<html" in str(error).lower():
            return not_s3(where, "the answer is a web page", url)
        return TransientError(str(not_s3(where, "the answer is no XML, or damaged", url)))
    if said := invalid_header(error):
        return UserError(f"{where}: {said}")
    text = f"{where}: {shown(error)}"
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
        HTTPError,
        OSError,
    )
    return TransientError(text) if isinstance(error, transient) else UserError(text)


def not_s3(where: str, what: str, url: str) -> UserError:
    return UserError(
        f"{where}: {url} does not answer as an S3 server does: {what}. Set AWS_ENDPOINT_URL_S3 to "
        "the address of the S3 API (not of a console or another web server)"
    )


def headers_of(response: Answer) -> dict[str, str]:
    """The HTTP headers of an answer, names in lower case."""
    headers = response["ResponseMetadata"].get("HTTPHeaders", {})
    return {name.lower(): str(value) for name, value in headers.items()}


def has_s3s_headers(response: Answer) -> bool:
    return any(name.startswith("x-amz") for name in headers_of(response))


def has_s3s_words(response: Answer) -> bool:
    """Whether a refusal has a code in its body (without one, botocore uses the status)."""
    code = response.get("Error", response).get("Code")
    return isinstance(code, str) and bool(code) and not code.isdigit()


def speaks_s3(response: Answer) -> bool:
    return has_s3s_words(response) or has_s3s_headers(response)


def shown(text: object) -> str:
    """The text of a server or a library on one line, shortened, without secrets."""
    if not isinstance(text, str | int | Exception):  # XML of another form
        return ""
    line = " ".join(without_secrets(str(text)).split())
    printable = "".join(one if one.isprintable() else "?" for one in line)
    return printable if len(printable) <= LONGEST_MESSAGE else printable[:LONGEST_MESSAGE] + " ..."


def _without_s3s_words(response: Answer) -> str:
    status, headers = response["ResponseMetadata"]["HTTPStatusCode"], headers_of(response)
    kind = shown(headers.get("content-type", "")).partition(";")[0]
    what = f"the answer is not S3's ({status}{', ' if kind else ''}{kind})"
    if 300 <= status < 400 and "location" in headers:
        what += f", which redirects to {shown(headers['location'])}"
    return what


def _with_hint(text: str, hint: str | None) -> str:
    return f"{text}\n  {hint[0].upper()}{hint[1:]}." if hint else text


def _hint(code: str, response: Answer) -> str | None:
    headers = headers_of(response)
    if code in _CLOCK_CODES:
        here = (
            f"set the clock of this machine: it says {datetime.now(UTC):%a, %d %b %Y %H:%M:%S} GMT"
        )
        return here + (f", the server {shown(headers['date'])}" if "date" in headers else "")
    if code in _REGION_CODES or "x-amz-bucket-region" in headers:
        error = response.get("Error", {})
        region = shown(headers.get("x-amz-bucket-region") or error.get("Region"))
        endpoint = shown(error.get("Endpoint"))
        return (
            f"set AWS_REGION to {region or 'the region of the bucket'}, and AWS_ENDPOINT_URL_S3, "
            f"if it is set, to {endpoint or 'the endpoint of that region'}"
        )
    if code.startswith("KMS."):
        return "check SDPOSE_S3_SSE_KMS_KEY_ID and the rights for that key"
    return _HINTS.get(code)


def _rights(request: str, arguments: Answer) -> str:
    rights = f"the credentials need {_RIGHTS.get(request, _WRITING)}"
    if arguments.get("ServerSideEncryption") == "aws:kms":
        rights += ", and kms:GenerateDataKey and kms:Decrypt for the key"
    return rights


def _missing_part(arguments: Answer) -> str | None:
    if "ServerSideEncryption" in arguments:
        return "unset SDPOSE_S3_SSE, or give the server a key service"
    if "IfMatch" in arguments or "IfNoneMatch" in arguments:
        return None  # the caller knows what this means
    return "use a server that implements this request, or none of the proxies before it"
