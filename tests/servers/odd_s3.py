"""S3 endpoints that answer as some real ones do, and as no S3 server would: plans for FaultProxy.

    with FaultProxy.to(moto.url) as proxy:
        proxy.plan = object_lock()

Each was reported by operators of such servers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

from servers.proxy import Edit, Fault, Message, Reply, Request

Plan = Callable[[Request], Fault | None]

PAGE = b"<html><body><h1>Please log in</h1></body></html>"


def answer(
    status: int,
    body: bytes = b"",
    kind: str = "application/xml",
    headers: tuple[tuple[str, str], ...] = (),
) -> Reply:
    head = Message(f"HTTP/1.1 {status} Made", [("Content-Type", kind), *headers])
    return Reply(head.with_body(body))


def error(
    status: int, code: str, message: str = "made by the test", more: str = "", **headers: str
) -> Reply:
    """As S3 says it. more: elements beside code and message; headers: _ for -."""
    body = f"<Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>".encode()
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return answer(status, body, headers=named)


def always(fault: Fault) -> Plan:
    return lambda request: fault


def query(request: Request) -> dict[str, str]:
    found = parse_qs(urlsplit(request.path).query, keep_blank_values=True)
    return {name: values[0] for name, values in found.items()}


def insists_on_region(region: str) -> Plan:
    """Garage, and Ceph's zones."""

    def plan(request: Request) -> Fault | None:
        signed_for = (request.headers.get("authorization", "").split("/") + [""] * 3)[2]
        if signed_for == region:
            return None
        said = f"the region '{signed_for}' is wrong; expecting '{region}'"
        return error(400, "AuthorizationHeaderMalformed", said)

    return plan


def object_lock() -> Plan:
    """A bucket with a default retention."""

    def plan(request: Request) -> Fault | None:
        has_checksum = "content-md5" in request.headers or any(
            name.startswith("x-amz-checksum-") for name in request.headers
        )
        if request.method != "PUT" or has_checksum:
            return None
        return error(400, "InvalidRequest", "needs Content-MD5 or x-amz-checksum-")

    return plan


def capital_headers() -> Plan:
    """Traefik and Go's ReverseProxy."""

    def capital(message: Message) -> Message:
        headers = [(name.title(), value) for name, value in message.headers]
        return Message(message.start_line, headers, message.body)

    return always(Edit(answer=capital))


def no_key_service() -> Plan:
    """MinIO without KMS."""

    def plan(request: Request) -> Fault | None:
        if "x-amz-server-side-encryption" not in request.headers:
            return None
        return error(501, "NotImplemented", "Server side encryption is not configured")

    return plan


def ignores_range() -> Plan:
    return always(Edit(request=lambda message: message.without("range")))


def _is_listing(request: Request) -> bool:
    return request.method == "GET" and "prefix" in query(request)


def version_1_listing(page: int) -> Plan:
    """A server that does not know version 2 of the listing: no token, and no start-after."""

    def old(message: Message) -> Message:
        kept = re.sub(r"(list-type|start-after)=[^& ]*&?", "", message.start_line)
        return Message(
            kept.replace(" HTTP", f"&max-keys={page} HTTP"), message.headers, message.body
        )

    return lambda request: Edit(request=old) if _is_listing(request) else None


def no_tokens(page: int) -> Plan:
    """A server that gives no token, and knows start-after."""

    def small(message: Message) -> Message:
        line = message.start_line.replace(" HTTP", f"&max-keys={page} HTTP")
        return Message(line, message.headers, message.body)

    def untold(message: Message) -> Message:
        body = re.sub(rb"<NextContinuationToken>.*?</NextContinuationToken>", b"", message.body)
        return message.with_body(body)

    fault = Edit(request=small, answer=untold)
    return lambda request: fault if _is_listing(request) else None


def endless_listing(kind: str) -> Plan:
    """Says for ever that there is more: "same" page and token, or "new" ones each time."""

    def plan(request: Request) -> Fault | None:
        if not _is_listing(request):
            return None
        number = 0 if kind == "same" else request.number
        key = f"{query(request)['prefix']}{number:09}"
        if "uploads" in query(request):
            body = (
                f"<ListMultipartUploadsResult><IsTruncated>true</IsTruncated>"
                f"<NextKeyMarker>{key}</NextKeyMarker><NextUploadIdMarker>u</NextUploadIdMarker>"
                f"</ListMultipartUploadsResult>"
            )
        else:
            body = (
                f"<ListBucketResult><IsTruncated>true</IsTruncated><Contents><Key>{key}</Key>"
                f"</Contents><NextContinuationToken>{number}</NextContinuationToken>"
                f"</ListBucketResult>"
            )
        return answer(200, body.encode())

    return plan


def uploads_by_exact_key() -> Plan:
    """MinIO: the prefix of ListMultipartUploads is the whole key, or nothing."""

    def plan(request: Request) -> Fault | None:
        if "uploads" not in query(request) or not query(request).get("prefix", "").endswith("/"):
            return None
        nothing = b"<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>"
        return answer(200, nothing + b"</ListMultipartUploadsResult>")

    return plan


def uploads_in_pages(keys: list[str], size: int) -> Plan:
    """A bucket with these unfinished uploads. `keys` loses what is aborted."""

    def plan(request: Request) -> Fault | None:
        asked, name = query(request), urlsplit(request.path).path.split("/", 2)[2:]
        if request.method == "DELETE" and "uploadId" in asked:
            keys.remove(name[0])
            return answer(204)
        if request.method != "GET" or "uploads" not in asked:
            return None
        left = sorted(key for key in keys if key.startswith(asked.get("prefix", "")))
        left = [key for key in left if key > asked.get("key-marker", "")]
        page, more = left[:size], len(left) > size
        uploads = "".join(
            f"<Upload><Key>{key}</Key><UploadId>id</UploadId>"
            "<Initiated>2020-01-01T00:00:00</Initiated></Upload>"
            for key in page
        )
        body = f"<IsTruncated>{str(more).lower()}</IsTruncated>{uploads}"
        if more:
            body += f"<NextKeyMarker>{page[-1]}</NextKeyMarker>"
            body += "<NextUploadIdMarker>id</NextUploadIdMarker>"
        return answer(
            200, f"<ListMultipartUploadsResult>{body}</ListMultipartUploadsResult>".encode()
        )

    return plan
