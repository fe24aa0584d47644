"""The files of a pack."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np

from sdpose.documents import parse_json
from sdpose.errors import UserError
from sdpose.skeleton import NUM_JOINTS

FORMAT = "sdpose-pack/1"
MANIFEST = "manifest.json"
IMAGES, PERSONS = "images.npy", "persons.npy"

IMAGE_ROW = np.dtype([("shard", "<i4"), ("width", "<i4"), ("height", "<i4"), ("offset", "<i8")])
PERSON_ROW = np.dtype(
    [
        ("image", "<i4"),  # row of images.npy
        ("ann_id", "<i8"),
        ("image_id", "<i8"),
        ("box_xywh", "<f8", (4,)),
        ("joints", "<f4", (NUM_JOINTS, 2)),
        ("visible", "<f4", (NUM_JOINTS,)),
    ]
)


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
            if values["format"] == FORMAT:
                return Manifest(**values)
        except (ValueError, TypeError, KeyError):
            pass
        raise UserError(f"{where} is not the manifest of a pack ({FORMAT}): remove that pack")


def shard_name(number: int) -> str:
    return f"shard-{number:05}.bin"
