"""The test that a page names for a promise exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("page", ["docs/registry.md", "docs/security.md"])
def test_every_promise_has_its_test(page: str) -> None:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    rows = text.partition("## Promises")[2].partition("\n## ")[0].split("\n|")[3:]
    assert len(rows) > 10
    for row in rows:
        named = re.findall(r"`(tests/\S+)::(test_\w+)`", row)
        assert named, f"no test holds: {row}"
        for path, test in named:
            assert f"def {test}(" in (REPOSITORY / path).read_text(encoding="utf-8")
