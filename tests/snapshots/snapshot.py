"""Compares what the code makes with a file in this folder.

The files were made by commit 8ec8903, before the refactor (docs/log.md). After a change that is
meant: SDPOSE_RENEW_SNAPSHOTS=1 .venv/bin/pytest tests/snapshots, and explain the difference in the
commit.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
LONGEST_DIFF = 80  # lines


def assert_unchanged(name: str, text: str) -> None:
    """Fails with a diff unless `text` is what the file `name` of this folder holds."""
    path = FOLDER / name
    if os.environ.get("SDPOSE_RENEW_SNAPSHOTS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    expected = path.read_text(encoding="utf-8")
    if text == expected:
        return
    lines = list(
        difflib.unified_diff(
            expected.splitlines(), text.splitlines(), f"tests/snapshots/{name}", "now", lineterm=""
        )
    )
    if len(lines) > LONGEST_DIFF:
        lines[LONGEST_DIFF:] = [f"... {len(lines) - LONGEST_DIFF} more lines"]
    pytest.fail("\n".join([*lines, "If this is meant: SDPOSE_RENEW_SNAPSHOTS=1"]), pytrace=False)
