"""Tests, files and `make` targets that pages and CI name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.long_suites import LONG_SUITES, unnamed_long_tests

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


def test_what_ci_and_the_contributors_guide_name_exists() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/check.yml").read_text("utf-8"))
    steps = [step["run"] for job in workflow["jobs"].values() for step in job["steps"][2:]]
    guide = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    script = (REPOSITORY / ".ci/run").read_text(encoding="utf-8")
    named = {target for step in steps for target in step.partition("make ")[2].split()}
    named |= set(re.findall(r"`make ([\w-]+)", guide))
    named |= set(re.findall(r"^(?:timeout .*)?make ([\w-]+)", script, re.MULTILINE))
    assert {"demo", "check", "test-fast"} <= named <= targets
    files = re.findall(r"`((?:tests|images)/[\w./]*)`", guide)
    assert len(files) > 10
    assert [name for name in files if not (REPOSITORY / name).exists()] == []


def test_the_contributors_guide_names_the_long_suites() -> None:
    guide = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = guide.partition("## Long suites")[2]
    for suite in LONG_SUITES:
        assert (REPOSITORY / suite).is_file()
        folder, _, name = suite.rpartition("/")
        assert name in table or f"`{folder}`" in table, suite


def test_a_long_test_outside_the_long_suites_is_found() -> None:
    def report(test: str, when: str, seconds: float) -> pytest.TestReport:
        return pytest.TestReport(test, ("", 0, ""), {}, "passed", None, when, duration=seconds)

    long, split, short = "tests/a.py::test_long", "tests/a.py::test_split", "tests/a.py::test"
    reports = [
        report(f"{LONG_SUITES[0]}::test_chaos", "call", 300.0),
        report(split, "setup", 31.0),
        report(split, "call", 31.0),
        report(short, "call", 59.0),
        report(long, "call", 61.0),
        "a warning",
    ]
    assert unnamed_long_tests(reports) == [(62.0, split), (61.0, long)]
