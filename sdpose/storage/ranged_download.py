"""Downloads of large objects in parallel ranges, resumed where an earlier process was stopped.

s3transfer cannot do this: it accepts no Range, keeps nothing of a download that fails, and compares
no digest (docs/log.md, 2026-11-30).
"""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeVar

from sdpose.files import open_own, write_atomically
from sdpose.retry import TransientError
from sdpose.storage.store import CHUNK_BYTES, retry_transient

CONNECTIONS = 8
WINDOW = 2 * CONNECTIONS

Progress = Callable[[int, int], None]
Item = TypeVar("Item")
Result = TypeVar("Result")


class Stream(Protocol):
    def read(self, amount: int, /) -> bytes: ...


class Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...


OpenRange = Callable[[int, int], AbstractContextManager[Stream]]
"""Bytes start..stop-1 of the object; raises TransientError for what may go away by itself."""


def fetch_ranges(
    open_range: OpenRange,
    size: int,
    tag: str,
    part: Path,
    state: Path,
    *,
    segment_bytes: int,
    attempts: int | None = None,
    digest: Digest | None = None,
    progress: Progress | None = None,
) -> None:
    """Fills the file `part` with the object's `size` bytes.

    What an earlier call has fetched is kept if `size` and `tag` are the same.

    Args:
        tag: changes with the object's content.
        state: a JSON file that records which segments of `part` have arrived.
        segment_bytes: what a kill can cost, per connection.
        attempts: of a segment without progress.
        digest: gets all bytes in order, as they are in `part`.
        progress: gets (bytes here, bytes in all).
    Raises:
        StoreUnavailableError: all attempts have failed; what has arrived is kept.
    """
    identity = {"size": size, "tag": tag, "segment": segment_bytes}
    done = _completed(state, identity) if part.is_file() and part.stat().st_size == size else set()
    descriptor = open_own(part)
    stopping = threading.Event()
    lock = threading.Lock()
    starts = range(0, size, segment_bytes)
    arrived = sum(min(segment_bytes, size - start) for start in starts if start in done)

    def fetch(start: int) -> int:
        if start in done:
            return start
        position, stop = start, min(start + segment_bytes, size)

        def read_on() -> None:
            nonlocal position, arrived
            if position == stop or stopping.is_set():
                return
            with open_range(position, stop) as stream:
                while position < stop and not stopping.is_set():
                    chunk = stream.read(min(CHUNK_BYTES, stop - position))
                    if not chunk:
                        raise TransientError(f"{part.name}: connection closed early")
                    os.pwrite(descriptor, chunk, position)
                    position += len(chunk)
                    with lock:
                        arrived += len(chunk)
                        if progress:
                            progress(arrived, size)

        retry_transient(read_on, attempts, progress=lambda: position)
        if position == stop:
            os.fsync(descriptor)
            with lock:
                done.add(start)
                write_atomically(
                    state, json.dumps(identity | {"done": sorted(done)}), durable=False
                )
        return start

    try:
        os.ftruncate(descriptor, size)
        for start in in_parallel(fetch, starts, stopping):
            if digest:
                digest.update(os.pread(descriptor, min(segment_bytes, size - start), start))
    finally:
        os.close(descriptor)


def read_whole(
    open_range: OpenRange, size: int, *, segment_bytes: int, attempts: int | None = None
) -> Iterator[bytes]:
    """Yields the object's bytes in order; holds up to `WINDOW` segments in memory."""

    def read(start: int) -> bytes:
        stop = min(start + segment_bytes, size)

        def once() -> bytes:
            with open_range(start, stop) as stream:
                data = stream.read(stop - start)
            if len(data) < stop - start:
                raise TransientError("connection closed early")
            return data

        return retry_transient(once, attempts)

    return in_parallel(read, range(0, size, segment_bytes), threading.Event())


def in_parallel(
    action: Callable[[Item], Result], items: Sequence[Item], stopping: threading.Event
) -> Iterator[Result]:
    """Yields the results of the action in the order of the items.

    At most `WINDOW` items are started and not yielded. `stopping` is set on an early end.
    """
    executor = ThreadPoolExecutor(CONNECTIONS)
    begun: deque[Future[Result]] = deque()
    try:
        for item in items:
            if len(begun) == WINDOW:
                yield begun.popleft().result()
            begun.append(executor.submit(action, item))
        while begun:
            yield begun.popleft().result()
    except BaseException:
        stopping.set()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def _completed(state: Path, identity: dict[str, object]) -> set[int]:
    try:
        known = json.loads(state.read_text())
        return set(known["done"]) if known == known | identity else set()
    except (OSError, ValueError, TypeError, KeyError):
        return set()
