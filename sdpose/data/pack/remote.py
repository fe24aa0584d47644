"""A pack in an object store: this machine's copy of it grows while training reads it.

The copy lies below $SDPOSE_CACHE (on a cluster: put it on local NVMe) and is shared by all
processes of the machine. A process that needs a shard fetches it if nobody has yet; `prefetch` runs
ahead in the order in which samples will be needed, which stays the exact shuffled one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

from sdpose.cache import cache_dir, own_folder
from sdpose.data.pack.layout import (
    IMAGES,
    MANIFEST,
    PERSONS,
    DamagedManifestError,
    Manifest,
)
from sdpose.errors import UserError
from sdpose.locking import file_lock
from sdpose.storage import Store, open_store

# Requests under way at a time: an object store serves each at some 50 to 100 MB/s.
_FETCHERS = 16


def local_copy(key: str) -> Path:
    """Where this machine keeps its copy of the pack."""
    return cache_dir() / "packs" / key


class RemotePack:
    """The store's side of a pack, and `folder`, the copy."""

    def __init__(self, location: str) -> None:
        self.location = location
        self.folder = local_copy(location.rstrip("/").rsplit("/", 1)[-1])
        self._threads: ThreadPoolExecutor | None = None
        self._store: tuple[int, Store] | None = None

    @property
    def store(self) -> Store:
        process = os.getpid()
        if self._store is None or self._store[0] != process:  # a client does not survive a fork
            self._store = process, open_store(self.location)
        return self._store[1]

    @cached_property
    def manifest(self) -> Manifest:
        path = self.folder / MANIFEST
        if path.is_file():
            with contextlib.suppress(DamagedManifestError):  # the copy: fetched again
                return Manifest.parse(path.read_bytes(), str(path))
        self.store.get_file(MANIFEST, path)
        return Manifest.parse(path.read_bytes(), self.location)

    def fetch_index(self) -> None:
        own_folder(self.folder)  # what is there is not verified again
        for name in (IMAGES, PERSONS):
            self.fetch(name)

    def fetch(self, name: str) -> None:
        """Makes sure that a file is here, verified; waits for another process that fetches it."""
        target = self.folder / name
        if target.exists():
            return
        with self._locked(name):
            if not target.exists():
                self.store.get_file(name, target, self.manifest.sha256[name])

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """One process at a time fetches a file."""
        locks = self.folder / "locks"
        try:
            locks.mkdir(parents=True, exist_ok=True)
            with file_lock(locks / name):  # without locks each fetches: see partial_file
                yield
        except OSError as error:
            raise UserError(f"cannot write to {self.folder}: {error.strerror}") from None

    def fetch_again(self, name: str, needed: int) -> None:
        """Replaces a copy that has fewer bytes than `needed`: the disk lost some after it was
        fetched, and verified."""
        with self._locked(name):
            target = self.folder / name
            if not target.exists() or target.stat().st_size < needed:
                self.store.get_file(name, target, self.manifest.sha256[name])

    def prefetch(self, names: Iterable[str]) -> None:
        """Fetches in the background. What fails is left to whoever needs it, who reports it."""
        self.close()
        self._threads = ThreadPoolExecutor(_FETCHERS, thread_name_prefix="pack")
        for name in names:
            self._threads.submit(self._try_to_fetch, name)

    def _try_to_fetch(self, name: str) -> None:
        with contextlib.suppress(UserError):
            self.fetch(name)

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
            self._threads = None
