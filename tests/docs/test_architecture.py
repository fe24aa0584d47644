"""docs/architecture.md names files and functions that are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs/architecture.md").read_text(encoding="utf-8")
STEPS = re.findall(r"^(\S+\.py) +(\w+)", PAGE, re.MULTILINE)


def test_it_has_walks() -> None:
    assert len(STEPS) > 40


@pytest.mark.parametrize(("file", "function"), STEPS)
def test_a_function_of_a_walk_is_in_its_file(file: str, function: str) -> None:
    tree = ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert function in defined


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:\w+/)+\w+\.py)`", PAGE))))
def test_a_file_is_there(path: str) -> None:
    assert any((REPOSITORY / folder / path).is_file() for folder in ("", "sdpose"))


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(sdpose\.\w+)`", PAGE))))
def test_a_package_is_there(name: str) -> None:
    path = REPOSITORY / name.replace(".", "/")
    assert path.is_dir() or path.with_suffix(".py").is_file()
