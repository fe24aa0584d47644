"""Packs in an object store (`data.pack_dir: s3://...`).

`prepare_pack` stores a pack there; `open_pack` reads one: this machine's copy of it grows while
training reads it. The copy lies below $SDPOSE_CACHE (on a cluster: put it on local NVMe) and is
shared by all processes of the machine. A process that needs a shard fetches it if nobody has yet;
`prefetch` runs ahead in the order in which samples will be needed, which stays the exact shuffled
one.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cached_property
from pathlib import Path

from sdpose.cache import cache_dir, own_folder
from sdpose.data.pack import Pack
from sdpose.data.pack import open_pack as open_local_pack
from sdpose.data.pack.layout import (
    IMAGES,
    MANIFEST,
    PERSONS,
    DamagedManifestError,
    Manifest,
)
from sdpose.errors import UserError
from sdpose.locking import file_lock
from sdpose.prepare import pack_builder
from sdpose.prepare.pack_builder import Source
from sdpose.progress_bar import ConsoleProgress
from sdpose.storage import DamagedObjectError, ObjectNotFoundError, Store, open_store

log = logging.getLogger(__name__)

# Requests under way at a time: an object store serves each at some 50 to 100 MB/s.
_FETCHERS = 16


def prepare_pack(source: Source, packs: str) -> str:
    """Makes sure that the pack is in `packs`, a folder or the URI of a store; returns where.

    Raises:
        UserError: the disk is too small or cannot be written, or the store does not answer.
    """
    if "://" not in packs:
        return pack_builder.prepare_pack(source, packs)
    location = f"{packs.rstrip('/')}/{source.key()}"
    store = open_store(location)
    try:
        Manifest.parse(store.read(MANIFEST), location)
        return location
    except ObjectNotFoundError:
        pass
    except (DamagedManifestError, DamagedObjectError):
        log.info(f"{location}/{MANIFEST} is damaged: the pack is stored again")
    folder = own_folder(local_copy(source.key()))
    manifest = pack_builder.build_pack(source, folder)
    log.info(f"storing {manifest.num_bytes / 1e9:.2f} GB in {location}")
    with (
        ConsoleProgress("storing the pack", "files") as progress,
        ThreadPoolExecutor(8) as threads,
    ):
        tasks = [
            threads.submit(store.put_file, folder / name, name, sha256)
            for name, sha256 in manifest.sha256.items()
        ]
        for done, task in enumerate(as_completed(tasks), start=1):
            task.result()
            progress(done, len(tasks))
    store.put(MANIFEST, manifest.dump())
    return location


def open_pack(location: str) -> Pack:
    """The pack in a folder, or at the URI of a store: shards are then fetched as they are needed.

    Raises:
        UserError: there is none.
    """
    if "://" not in location:
        return open_local_pack(location)
    remote = RemotePack(location)
    remote.fetch_index()
    return Pack(location, remote.folder, remote)


def local_copy(key: str) -> Path:
    """Where this machine keeps its copy of the pack."""
    return cache_dir() / "packs" / key


class RemotePack:
    """The store's side of a pack, and `folder`, the copy. Pickled as its location alone."""

    def __init__(self, location: str) -> None:
        self.location = location
        self.folder = local_copy(location.rstrip("/").rsplit("/", 1)[-1])
        self._threads: ThreadPoolExecutor | None = None
        self._store: tuple[int, Store] | None = None

    def __reduce__(self) -> tuple:
        return RemotePack, (self.location,)

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
