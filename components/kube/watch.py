"""Follows a set of objects: list, then watch from there, whatever cuts the watch."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable

import urllib3

from components.kube.api import Api, Object, Resource, lines
from components.kube.errors import ApiRefusedError

# A watch ends by itself so often that a dead connection is noticed soon; going on is one request.
WATCH_S = 50
SILENCE_S = 70.0
PAUSE_S = 1.0  # at least, between two watches of which the first ended early

# ("LISTED", all that there are), ("CHANGED", [one, new or not]), ("DELETED", [one, as it was last])
Handler = Callable[[str, list[Object]], None]


def follow(
    api: Api, resource: Resource, query: dict[str, str], handle: Handler, stop: threading.Event
) -> None:
    """Runs until `stop`: hands over what the list holds, then every event.

    What came and went between a lost watch and the list after it is not seen.
    """
    while not stop.is_set():
        listed = api.list(resource, **query)
        handle("LISTED", listed["items"])
        version = listed["metadata"]["resourceVersion"]
        while version and not stop.is_set():
            started, before = time.monotonic(), version
            version = _watch(api, resource, query, version, handle, stop)
            if time.monotonic() - started < PAUSE_S:
                stop.wait(PAUSE_S)
                if version == before:
                    break  # watches that end at once and say nothing: the list still does


def _watch(
    api: Api,
    resource: Resource,
    query: dict[str, str],
    version: str,
    handle: Handler,
    stop: threading.Event,
) -> str | None:
    """One watch to its end; the version to go on from, None if a new list is needed."""
    options = {
        "watch": "true",
        "allowWatchBookmarks": "true",
        "resourceVersion": version,
        "timeoutSeconds": str(WATCH_S),
    }
    try:
        response = api.open(resource, query | options, read_timeout=SILENCE_S)
    except ApiRefusedError as error:
        if error.status not in {400, 410}:
            raise
        return None  # 410: this version is forgotten. 400: whatever is wrong with it, list again.
    try:
        for line in lines(response):
            if stop.is_set():
                break
            event = json.loads(line)
            item = event["object"]
            if event["type"] == "ERROR":  # 410: the history up to here is dropped; or worse
                return None
            version = item["metadata"]["resourceVersion"]
            if event["type"] != "BOOKMARK":
                handle("DELETED" if event["type"] == "DELETED" else "CHANGED", [item])
    except urllib3.exceptions.ReadTimeoutError:
        return None  # not even bookmarks: something on the way holds events back
    except (urllib3.exceptions.HTTPError, OSError, ValueError, LookupError, TypeError):
        pass  # cut, half a line, or no event: go on from the last one
    finally:
        response.close()
    return version
