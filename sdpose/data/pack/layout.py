"""The files of a pack."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np

from sdpose.documents import parse_json
from sdpose.errors import UserError

FORMAT = "sdpose-pack/1"
MANIFEST = "manifest.json"
IMAGES, PERSONS = "images.npy", "persons.npy"

IMAGE_ROW = np.dtype([("shard", "<i4"), ("width", "<i4"), ("height", "<i4"), ("offset", "<i8")])


def person_row(num_joints: int) -> np.dtype:
    """Return the type of the rows of persons.npy."""
    return np.dtype(
        [
            ("image", "<i4"),  # row of images.npy
            ("ann_id", "<i8"),
            ("image_id", "<i8"),
            ("box_xywh", "<f8", (4,)),
            ("joints", "<f4", (num_joints, 2)),
            ("visible", "<f4", (num_joints,)),
        ]
    )


class DamagedManifestError(UserError):
    """The manifest is damaged: the pack must be made again."""


@dataclass(frozen=True)
class Manifest:
    key: str
    num_images: int
    num_persons: int
    num_bytes: int  # of pixels
    sha256: dict[str, str]  # by file name, the shards first
    format: str = FORMAT

    def dump(self) -> bytes:
        return (json.dumps(asdict(self), indent=1) + "\n").encode()

    @staticmethod
    def parse(data: bytes, where: str) -> Manifest:
        try:
            values = parse_json(data, where, len(data))
            digests = values["sha256"].items()
            if values["format"] == FORMAT and all(
                isinstance(name, str) and isinstance(sha256, str) for name, sha256 in digests
            ):
                return Manifest(**values)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            pass
        raise DamagedManifestError(
            f"{where} is not the manifest of a pack ({FORMAT}): run `sdpose prepare`, which makes "
            "it again"
        )


def shard_name(number: int) -> str:
    return f"shard-{number:05}.bin"
