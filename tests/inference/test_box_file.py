"""A file of boxes that holds something else is refused in one message."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdpose.errors import UserError
from sdpose.inference.boxes import BoxFile

DAMAGED = [
    *(b"", b"{bad", b"null", b"5", b'["x"]', b"[" * 100_000, b"\xff\xfe[\x00", b"\xe9", b"{}"),
    *(b'[{"image_id": 1}]', b'[{"image_id": 1, "bbox": 5}]', b'[{"image_id": "x", "bbox": []}]'),
    *(b'[{"image_id": Infinity, "bbox": []}]', b'[{"image_id": NaN, "bbox": []}]'),
    *(b'{"images": 5}', b'{"images": [], "annotations": [{"image_id": [], "bbox": []}]}'),
    b'[{"image_id": 1' + b"0" * 5000 + b"}]",
]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_what_holds_no_boxes_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"boxes\.json"):
        BoxFile(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.json"):
        BoxFile(tmp_path / "absent.json")
