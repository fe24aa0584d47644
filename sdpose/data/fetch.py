"""Brings COCO 2017 into a folder: from a mirror, from S3, or from another folder.

What is there already is not fetched again, and an interrupted fetch goes on where it was.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdpose.data.coco import load_annotations
from sdpose.data.download import Checksum, Checksums, download
from sdpose.data.progress import ConsoleProgress
from sdpose.data.sources import FolderSource, RemoteFile, Source, open_source
from sdpose.data.unzip import UnusableArchiveError, unpack
from sdpose.errors import UserError
from sdpose.files import matching
from sdpose.locking import only_one
from sdpose.storage.patience import patiently
from sdpose.storage.ranges import in_parallel

STAGING = ".fetch"  # in data_root, while something is incomplete
DETECTIONS = "person_detection_results/COCO_val2017_detections_AP_H_56_person.json"


@dataclass(frozen=True)
class Archive:
    """One of COCO's zip files."""

    name: str
    places: tuple[str, ...]  # folders in a mirror; the first as on images.cocodataset.org
    wanted: str  # members that are unpacked start with this
    size: int  # official, bytes
    md5: str  # official; a file of the official size must have it


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


def fetch_coco(source: str, data_root: Path) -> None:
    """Makes `data_root` a COCO 2017 keypoints tree.

    source: http(s)://mirror, s3://bucket/prefix or a folder. It holds COCO's zip files, placed as
    on images.cocodataset.org or side by side, or the unpacked tree; of a folder's tree links are
    made. Detections (person_detection_results/) come along if the source has them.
    Checked are: checksums that the source publishes (SHA256SUMS, MD5SUMS beside a file or at the
    top), the official MD5 of a zip that has the official size, and every zip's own CRCs.
    Raises UserError if something is missing or damaged or the source fails for good; what has
    arrived stays, and the next call goes on.
    """
    fetcher = _Fetcher(open_source(source), source, data_root)
    with only_one(data_root / STAGING, otherwise=f"another fetch into {data_root} is running"):
        if isinstance(fetcher.source, FolderSource):
            _link_tree(fetcher.source.folder, data_root)
        json_files = {name: f"annotations/person_keypoints_{name}.json" for name in IMAGES}
        fetcher.complete(list(json_files.values()), ANNOTATIONS, "annotations")
        for folder, archive in IMAGES.items():
            names = load_annotations(data_root / json_files[folder]).file_names
            fetcher.complete([f"{folder}/{name}" for name in names], archive, f"{folder} images")
        if not (data_root / DETECTIONS).is_file() and fetcher.find(DETECTIONS):
            fetcher.files([DETECTIONS], "detections")
    shutil.rmtree(data_root / STAGING)


class _Fetcher:
    def __init__(self, source: Source, where: str, data_root: Path) -> None:
        self.source = source
        self.where = where
        self.data_root = data_root
        self.staging = data_root / STAGING
        self.checksums = Checksums(source)

    def find(self, name: str) -> RemoteFile | None:
        return patiently(lambda: self.source.find(name))

    def complete(self, names: Sequence[str], archive: Archive, what: str) -> None:
        """Fetches the archive, or one by one the files, if any of them is missing."""
        missing = [name for name in names if not (self.data_root / name).is_file()]
        if not missing:
            return
        outside = [name for name in missing if ".." in name.split("/")]
        if outside:
            raise UserError(f"the annotations name files outside their folder: {outside[0]}")
        link = self.data_root / missing[0].split("/")[0]
        if link.is_symlink():  # to a tree that is not ours to complete
            files = f"{len(missing)} file{'s' if len(missing) > 1 else ''}, {missing[0]}"
            raise UserError(f"{link.resolve().parent} lacks {files}")
        remote = next(
            filter(None, (self.find(place + archive.name) for place in archive.places)), None
        )
        if remote:
            self.archive(remote, archive)
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
        checksum = self.checksums.of(remote.name)
        checked = f"{checksum[0]} as published there" if checksum else "its own CRCs"
        if not checksum and remote.size == archive.size:
            checksum, checked = ("md5", archive.md5), "COCO's official md5"
        size = f"{remote.size / 1e6:.0f} MB" if remote.size else "size unknown"
        print(
            f"fetching {self.where}/{remote.name} ({size}), checked by {checked}", file=sys.stderr
        )
        part = path.with_name(path.name + ".part")
        with ConsoleProgress(f"fetching {archive.name}", "bytes") as progress:
            download(self.source, remote, path, part=part, checksum=checksum, progress=progress)

    def files(self, names: Sequence[str], what: str) -> None:
        """Fetches single files, several at a time."""
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
