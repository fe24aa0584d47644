"""Fetches COCO 2017 into a folder: from a mirror, from S3, or from another folder.

Existing files are not fetched again, and an interrupted fetch is resumed.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdpose.data.coco import load_file_names
from sdpose.errors import UserError
from sdpose.files import matching
from sdpose.locking import only_one
from sdpose.progress_bar import ConsoleProgress
from sdpose.storage.ranged_download import in_parallel
from sdpose.storage.store import retry_transient
from sdpose.tools.coco_fetch.download import Checksum, Checksums, download
from sdpose.tools.coco_fetch.sources import (
    FolderSource,
    HttpSource,
    RemoteFile,
    Source,
    is_official,
    open_source,
)
from sdpose.tools.coco_fetch.unzip import NAME_BYTES, UnusableArchiveError, unpack

log = logging.getLogger(__name__)

STAGING = ".fetch"  # in data_root, while something is incomplete
DETECTIONS = "person_detection_results/COCO_val2017_detections_AP_H_56_person.json"


@dataclass(frozen=True)
class Archive:
    """One of COCO's zip files."""

    name: str
    places: tuple[str, ...]  # folders in a mirror; the first as on images.cocodataset.org
    wanted: str  # members that are unpacked start with this
    size: int  # official, bytes
    md5: str  # official; a file of the official size must have it, wherever it comes from


ANNOTATIONS = Archive(
    name="annotations_trainval2017.zip",
    places=("annotations/", "", "zips/"),
    wanted="annotations/person_keypoints_",
    size=252_907_541,
    md5="f4bbac642086de4f52a3fdda2de5fa2c",
)
IMAGES = {
    "val2017": Archive(
        name="val2017.zip",
        places=("zips/", ""),
        wanted="val2017/",
        size=815_585_330,
        md5="442b8da7639aecaf257c1dceb8ba8c80",
    ),
    "train2017": Archive(
        name="train2017.zip",
        places=("zips/", ""),
        wanted="train2017/",
        size=19_336_861_798,
        md5="cced6f7f71b7629ddf16f17bbcfab6b2",
    ),
}


def fetch_coco(source: str, data_root: Path, *, vouched: bool = False) -> None:
    """Makes `data_root` a COCO 2017 keypoints tree.

    From COCO's own server only its zips are taken, and they must have the official size and MD5.
    Elsewhere a zip of the official size must have the official MD5, too; other files are compared
    with the source's SHA256SUMS or MD5SUMS (beside a file or at the top), and zips with their own
    CRCs. Whoever controls a mirror controls these as well, so a warning goes to stderr.

    Args:
        source: http(s)://mirror, s3://bucket/prefix or a folder. It has COCO's zip files, placed as
            on images.cocodataset.org or side by side, or the unpacked tree; a folder's tree is
            linked. Detections (person_detection_results/) are fetched if the source has them.
        vouched: no warning, because the caller compares the dataset's digest afterwards.
    Raises:
        UserError: something is missing or damaged, or the source fails permanently; what has
            arrived stays, and the next call continues.
    """
    fetcher = _Fetcher(open_source(source), source, data_root, vouched)
    if fetcher.staging.is_symlink():
        raise UserError(f"{fetcher.staging} is a symbolic link: remove it and try again")
    with only_one(data_root / STAGING, otherwise=f"another fetch into {data_root} is running"):
        if isinstance(fetcher.source, FolderSource):
            _link_tree(fetcher.source.folder, data_root)
        json_files = {name: f"annotations/person_keypoints_{name}.json" for name in IMAGES}
        fetcher.complete(list(json_files.values()), ANNOTATIONS, "annotations")
        for folder, archive in IMAGES.items():
            names = load_file_names(data_root / json_files[folder])
            fetcher.complete([f"{folder}/{name}" for name in names], archive, f"{folder} images")
        wanted = not fetcher.official and not (data_root / DETECTIONS).is_file()
        if wanted and fetcher.find(DETECTIONS):
            fetcher.files([DETECTIONS], "detections")
    shutil.rmtree(data_root / STAGING)


class _Fetcher:
    def __init__(self, source: Source, where: str, data_root: Path, vouched: bool) -> None:
        self.source = source
        self.where = where
        self.data_root = data_root
        self.staging = data_root / STAGING
        self.checksums = Checksums(source)
        self.official = is_official(source)
        # Whoever can write to the user's own bucket or folder is trusted with its content.
        self._warned = vouched or not isinstance(source, HttpSource)

    def find(self, name: str) -> RemoteFile | None:
        return retry_transient(lambda: self.source.find(name))

    def complete(self, names: Sequence[str], archive: Archive, what: str) -> None:
        """Fetches the archive, or one by one the files, if any of them is missing."""
        unusable = [name for name in names if not _is_usable(name)]
        if unusable:
            raise UserError(
                "the annotations name files outside their folder, or by names that no file can "
                f"have: {unusable[0][:100]!r}"
            )
        missing = [name for name in names if not (self.data_root / name).is_file()]
        if not missing:
            return
        link = self.data_root / missing[0].split("/")[0]
        if link.is_symlink():  # to a tree that is not ours to complete
            files = f"{len(missing)} file{'s' if len(missing) > 1 else ''}, {missing[0]}"
            raise UserError(f"{link.resolve().parent} lacks {files}")
        remote = next(
            filter(None, (self.find(place + archive.name) for place in archive.places)), None
        )
        if remote:
            self.archive(remote, archive)
        elif self.official:  # single files have no published digest
            raise self._absent([archive.places[0] + archive.name])
        else:
            self.files(missing, what)

    def archive(self, remote: RemoteFile, archive: Archive) -> None:
        if isinstance(self.source, FolderSource):
            path = self.source.folder / remote.name
        else:
            path = self.staging / archive.name
            if not path.is_file():
                self._download_archive(remote, path, archive)
        fetched = path.parent == self.staging
        try:
            with ConsoleProgress(f"unpacking {archive.name}", "files") as progress:
                unpack(path, self.data_root, archive.wanted, self.staging, progress)
        except UnusableArchiveError:
            if fetched:
                path.unlink()
            raise
        if fetched:
            path.unlink()

    def _download_archive(self, remote: RemoteFile, path: Path, archive: Archive) -> None:
        checksum: Checksum | None
        if self.official or remote.size == archive.size:
            checksum, checked = ("md5", archive.md5), "COCO's official md5"
            if remote.size not in (None, archive.size):
                raise UserError(
                    f"{self.where}/{remote.name} has {remote.size} bytes, COCO's has "
                    f"{archive.size}: somebody on the way has changed it (a proxy, an attacker), "
                    "or that server is not COCO's; nothing was fetched"
                )
        else:
            checksum = self.checksums.of(remote.name)
            checked = f"{checksum[0]} as published there" if checksum else "its own CRCs"
            self._warn()
        size = f"{remote.size / 1e6:.0f} MB" if remote.size else "size unknown"
        log.info(f"fetching {self.where}/{remote.name} ({size}), checked by {checked}")
        part = path.with_name(path.name + ".part")
        with ConsoleProgress(f"fetching {archive.name}", "bytes") as progress:
            download(
                self.source,
                remote,
                path,
                part=part,
                checksum=checksum,
                largest=archive.size if self.official else 2 * archive.size,
                progress=progress,
            )

    def _warn(self) -> None:
        if self._warned:
            return
        self._warned = True
        log.warning(
            f"nothing but {self.where} itself vouches for what it sends: they are not "
            "COCO's official files. Compare the dataset's digest with the one that you expect: "
            "sdpose prepare --expect-digest"
        )

    def files(self, names: Sequence[str], what: str) -> None:
        """Fetches single files, several at a time."""
        self._warn()
        absent: list[str] = []
        stopping = threading.Event()

        def fetch(name: str) -> None:
            if stopping.is_set():
                return
            remote = self.find(name)
            if not remote:
                absent.append(name)
                if len(absent) > 20:  # it is not there at all
                    raise self._absent(absent)
                return
            part = self.staging / name
            checksum: Checksum | None = self.checksums.of(name)
            download(self.source, remote, self.data_root / name, part=part, checksum=checksum)

        with ConsoleProgress(f"fetching {what}", "files") as progress:
            for count, _ in enumerate(in_parallel(fetch, names, stopping), start=1):
                progress(count, len(names))
        if absent:
            raise self._absent(absent)

    def _absent(self, names: list[str]) -> UserError:
        zips = ", ".join(a.places[0] + a.name for a in (ANNOTATIONS, *IMAGES.values()))
        more = f" and {len(names) - 1} or more other files" if len(names) > 1 else ""
        return UserError(
            f"{self.where} does not have {names[0]}{more}.\n  Expected there: COCO's zip files "
            f"({zips}, or side by side), or the unpacked tree (annotations/, train2017/, val2017/)."
        )


def _is_usable(name: str) -> bool:
    """A relative path that stays below its folder and that a file can have."""
    try:
        parts = name.encode().split(b"/")
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    inside = b".." not in parts and b"\0" not in name.encode() and parts[-1] not in (b"", b".")
    return inside and all(len(part) <= NAME_BYTES for part in parts) and len(name) < 2048


def _link_tree(folder: Path, data_root: Path) -> None:
    """Links of the parts that `folder` has unpacked and `data_root` does not have."""
    for name, sign in _SIGNS.items():
        here, there = data_root / name, folder.absolute() / name
        if matching(there, sign) and not os.path.lexists(here):
            here.symlink_to(there)


_SIGNS = {
    "annotations": "person_keypoints_*.json",
    "val2017": "*.jpg",
    "train2017": "*.jpg",
    "person_detection_results": "*.json",
}
