"""A large object in parallel ranges, into a file, resumable."""

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
    """Fills `part` with the object's `size` bytes; `state` says which segments are there.

    What an earlier call has fetched is kept if `size` and `tag` are the same. segment_bytes: what a
    kill can cost, per connection. digest: is fed all bytes in order, as they lie in `part`.
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
    """The object's bytes, in order; up to `WINDOW` segments are held at once."""

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
    """Yields the action's results in the items' order, as they are done. At most `WINDOW` items
    are begun and not yielded. `stopping` is set when it ends early."""
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
