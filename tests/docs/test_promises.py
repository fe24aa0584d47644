"""The test that a page names for a promise exists."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_every_promise_of_the_registry_has_its_test() -> None:
    text = (REPOSITORY / "docs/registry.md").read_text(encoding="utf-8")
    rows = text.partition("## Promises")[2].split("\n|")[3:]
    assert len(rows) > 10
    for row in rows:
        named = re.findall(r"`(tests/\S+)::(test_\w+)`", row)
        assert named, f"no test holds: {row}"
        for path, test in named:
            assert f"def {test}(" in (REPOSITORY / path).read_text(encoding="utf-8")
