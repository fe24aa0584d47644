"""One request to S3: returns an answer of S3, or raises an exception that says what is wrong.

The server at the address of an S3 endpoint need not be S3: an ingress without its backend, a login
page, a console. Its answers are never taken for a statement about an object.
"""

from __future__ import annotations

from typing import Any

from sdpose.errors import UserError
from sdpose.retry import TransientError
from sdpose.storage.s3_errors import (
    Answer,
    broken,
    has_s3s_headers,
    has_s3s_words,
    headers_of,
    not_s3,
    refused,
    shown,
)

# Fields of every successful answer.
_ALWAYS_THERE = {
    "head_object": ("ETag", "ContentLength"),
    "get_object": ("ETag",),
    "put_object": ("ETag",),
    "copy_object": ("CopyObjectResult",),
    "create_multipart_upload": ("UploadId",),
    "upload_part": ("ETag",),
    "complete_multipart_upload": ("ETag",),
    "list_objects": ("IsTruncated",),
    "list_objects_v2": ("IsTruncated",),
    "list_multipart_uploads": ("IsTruncated",),
}
# The answer to HEAD has no body, so it cannot give a reason. An equivalent request can.
_TWINS: dict[str, tuple[str, Answer]] = {
    "head_object": ("get_object", {"Range": "bytes=0-0"}),
    "head_bucket": ("list_objects_v2", {"MaxKeys": 1}),
}
# What botocore raises, beside its own exceptions, about an answer that it cannot parse.
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, RecursionError)


def call(client: Any, request: str, where: str, **arguments: Any) -> Answer:
    """Sends `client.<request>(**arguments)` once.

    Args:
        where: the object or bucket that messages name.
    Raises:
        ObjectNotFoundError, ConditionFailedError, NotImplementedByServerError, AccessDeniedError:
            see there.
        TransientError: a retry may help.
        UserError: anything else.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    url = str(client.meta.endpoint_url)
    try:
        answer: Answer = getattr(client, request)(**arguments)
    except ClientError as error:
        response = error.response
        if request in _TWINS and _hides_its_reason(response):
            response = _reason(client, request, where, response, arguments)
        raise refused(response, where, request, arguments, url) from None
    except (BotoCoreError, OSError) as error:
        raise broken(error, where, url) from None
    except _UNREADABLE as error:
        raise _unreadable(error, where, url) from None
    if problem := _problem(request, answer):
        if "Body" in answer:
            answer["Body"].close()
        raise not_s3(where, problem, url)
    return answer


def _hides_its_reason(response: Answer) -> bool:
    status = response["ResponseMetadata"]["HTTPStatusCode"]
    if has_s3s_words(response) or not 300 <= status < 500:
        return False
    # 404 with S3's headers is what it seems; 304, 412 and 429 need no body.
    return status not in (304, 408, 412, 429) and not (status == 404 and has_s3s_headers(response))


def _reason(client: Any, request: str, where: str, response: Answer, arguments: Answer) -> Answer:
    """The refusal of the request's twin.

    Raises TransientError if the object has appeared meanwhile, UserError if the twin is allowed.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    twin, more = _TWINS[request]
    url = str(client.meta.endpoint_url)
    try:
        answer: Answer = getattr(client, twin)(**arguments, **more)
    except ClientError as error:
        refusal: Answer = error.response
        if refusal["ResponseMetadata"]["HTTPStatusCode"] != 416:  # an object without bytes
            return refusal
    except (BotoCoreError, OSError) as error:
        raise broken(error, where, url) from None
    except _UNREADABLE as error:
        raise _unreadable(error, where, url) from None
    else:
        if "Body" in answer:
            answer["Body"].close()
        if problem := _problem(twin, answer):
            raise not_s3(where, problem, url)
    status = response["ResponseMetadata"]["HTTPStatusCode"]
    if status == 404:
        raise TransientError(f"{where}: not there for HEAD, but for GET")
    raise UserError(
        f"{where}: {url} refuses HEAD ({status}) and allows GET: let HEAD pass, too, at the server "
        "and the proxies before it"
    )


def _problem(request: str, answer: Answer) -> str | None:
    """What shows that an answer of success is not S3's."""
    kind = headers_of(answer).get("content-type", "")
    if kind.startswith("text/html") and not has_s3s_headers(answer):
        return "the answer is a web page"
    missing = [name for name in _ALWAYS_THERE.get(request, ()) if name not in answer]
    return f"the answer to {request} has no {missing[0]}" if missing else None


def _unreadable(error: Exception, where: str, url: str) -> UserError:
    if isinstance(error, RecursionError):
        return not_s3(where, "it redirects again and again", url)
    return not_s3(where, f"the answer cannot be read ({type(error).__name__}: {shown(error)})", url)
