"""Listings of a bucket, page by page, from servers that do not all follow S3's rules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sdpose.errors import UserError
from sdpose.storage.s3_errors import AccessDeniedError, Answer
from sdpose.storage.s3_objects import S3Objects

MAX_PAGES = 10_000  # of 1,000 entries; some servers never end


def keys(objects: S3Objects, folder: str) -> Iterator[str]:
    """Yields the keys of the bucket that begin with `folder`, in the server's order.

    From a server that gives no token for the next page, the keys after the last one are requested
    (StartAfter), and from one that does not know that either, by version 1 of the request.

    Raises:
        UserError: the listing does not end or repeats itself.
    """
    where = f"s3://{objects.bucket}/{folder}"
    request, more, last = "list_objects_v2", dict[str, Any](), ""
    tokens: set[str] = set()
    for _ in range(MAX_PAGES):
        page, found = _page(objects, request, folder, more)
        by_token = "ContinuationToken" in more
        if more and not by_token:
            found = [key for key in found if key > last]
            if not found and page["IsTruncated"] and request == "list_objects_v2":
                request, more = "list_objects", {"Marker": last}
                continue
        yield from found
        if not page["IsTruncated"]:
            return
        token = page.get("NextContinuationToken")
        if token in tokens or (token is None and not found):
            raise UserError(f"{where}: the server gives the same page of the listing again")
        last = max(found, default=last)
        if token is not None:
            tokens.add(token)
            more = {"ContinuationToken": token}
        else:
            more = {"Marker" if request == "list_objects" else "StartAfter": last}
    raise _endless(where)


def _page(
    objects: S3Objects, request: str, folder: str, more: dict[str, Any]
) -> tuple[Answer, list[str]]:
    """One page, and its keys. Nothing vouches for its bytes: one that holds keys of elsewhere is
    requested again before the server is blamed."""
    where = f"s3://{objects.bucket}/{folder}"
    strangers: list[str] = []
    for _ in range(2):
        page = objects.ask(request, where, Bucket=objects.bucket, Prefix=folder, **more)
        found = [str(entry.get("Key", "")) for entry in page.get("Contents", ())]
        strangers = [key for key in found if not key.startswith(folder)]
        if not strangers:
            return page, found
    raise UserError(f"{where}: the server lists {strangers[0]!r}, which is not below it")


def unfinished_uploads(objects: S3Objects, prefix: str) -> list[Answer]:
    """Multipart uploads of keys that begin with `prefix`, neither completed nor aborted.

    MinIO takes the prefix for a whole key and finds nothing, but lists the bucket.
    """
    found = list(_uploads(objects, prefix))
    if found or not prefix:
        return found
    try:
        everywhere = list(_uploads(objects, ""))
    except AccessDeniedError:  # rights for the prefix only, at a server that understands it
        return []
    return [upload for upload in everywhere if str(upload["Key"]).startswith(prefix)]


def _uploads(objects: S3Objects, prefix: str) -> Iterator[Answer]:
    where = f"s3://{objects.bucket}/{prefix}"
    markers: dict[str, str] = {}
    for _ in range(MAX_PAGES):
        page = objects.ask(
            "list_multipart_uploads", where, Bucket=objects.bucket, Prefix=prefix, **markers
        )
        found = page.get("Uploads", [])
        yield from (one for one in found if one.keys() >= {"Key", "UploadId", "Initiated"})
        if not page["IsTruncated"]:
            return
        last = found[-1] if found else {}
        following = {
            "KeyMarker": str(page.get("NextKeyMarker") or last.get("Key", "")),
            "UploadIdMarker": str(page.get("NextUploadIdMarker") or last.get("UploadId", "")),
        }
        if following == markers or not following["KeyMarker"]:
            raise UserError(f"{where}: the server gives the same page of the uploads again")
        markers = following
    raise _endless(where)


def _endless(where: str) -> UserError:
    return UserError(f"{where}: the server's listing did not end after {MAX_PAGES:,} pages")
