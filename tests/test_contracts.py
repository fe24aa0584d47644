"""Every contract of pyproject.toml is broken on purpose, and the tool that guards it says so.

import-linter guards the imports, ruff's T20 the use of print().
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PACKAGES = ("sdpose", "components", "pipelines")

KUBEFLOW = "only components and pipelines import kfp and kubernetes"
BOTO3 = "only sdpose.storage imports boto3"
MLFLOW = "only sdpose.tracking imports mlflow"
CORE = "the core uses no service, no network and no other process"
LAYERS = "layers"
MODELS = "models and losses use torch only"
KUBE = "the client of Kubernetes knows nothing of training jobs"

# A file, an import that it must not have, and the contracts that this breaks.
FORBIDDEN = [
    ("sdpose/report/__init__.py", "import kfp", {KUBEFLOW}),
    ("sdpose/registry/__init__.py", "import kubernetes", {KUBEFLOW}),
    ("pipelines/submit.py", "import boto3", {BOTO3}),
    ("sdpose/registry/__init__.py", "from botocore import config", {BOTO3}),
    ("components/train.py", "import mlflow", {MLFLOW}),
    ("sdpose/training/step.py", "import mlflow", {MLFLOW, CORE}),
    ("sdpose/training/step.py", "import subprocess", {CORE}),
    ("sdpose/training/step.py", "from sdpose.registry import channels", {CORE, LAYERS}),
    ("sdpose/data/augment.py", "import http.client", {CORE}),
    ("sdpose/config/schema/skeleton.py", "import sdpose.geometry", {LAYERS, MODELS}),
    ("sdpose/losses.py", "import cv2", {MODELS}),
    ("components/kube/__init__.py", "import components.profile", {KUBE}),
]


@pytest.fixture(scope="module")
def copy(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources, to break."""
    folder = tmp_path_factory.mktemp("sources")
    for package in PACKAGES:
        ignore = shutil.ignore_patterns("__pycache__", "*.html", "*.css", "*.yaml")
        shutil.copytree(repository / package, folder / package, ignore=ignore)
    shutil.copy2(repository / "pyproject.toml", folder)
    return folder


@pytest.fixture(scope="module")
def settings(repository: Path) -> dict[str, Any]:
    return tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["tool"]


@contextmanager
def changed(path: Path, text: str) -> Iterator[None]:
    before = path.read_bytes()
    path.write_text(text, encoding="utf-8")
    try:
        yield
    finally:
        path.write_bytes(before)


def run(program: str, *arguments: str, folder: Path) -> str:
    """What a program of this virtual environment prints."""
    command = [str(Path(sys.executable).with_name(program)), *arguments]
    environment = {**os.environ, "COLUMNS": "200", "PYTHONPATH": str(folder)}
    done = subprocess.run(
        command, cwd=folder, env=environment, check=False, capture_output=True, text=True
    )
    return done.stdout + done.stderr


def broken(folder: Path) -> tuple[set[str], str]:
    """The names of the contracts that are broken, and all that lint-imports prints."""
    output = run("lint-imports", "--no-logo", "--no-cache", folder=folder)
    verdicts = dict(re.findall(r"^(.+) (KEPT|BROKEN)", output, re.MULTILINE))
    assert verdicts, output
    return {name for name, verdict in verdicts.items() if verdict == "BROKEN"}, output


def test_every_contract_is_broken_here(settings: dict[str, Any]) -> None:
    contracts = {each["name"] for each in settings["importlinter"]["contracts"]}
    assert contracts == set().union(*(names for _, _, names in FORBIDDEN))


def test_unchanged_sources_keep_the_contracts(copy: Path) -> None:
    names, output = broken(copy)
    assert not names, output


@pytest.mark.parametrize(("file", "line", "expected"), FORBIDDEN)
def test_a_forbidden_import_breaks_its_contract(
    file: str, line: str, expected: set[str], copy: Path
) -> None:
    path = copy / file
    with changed(path, f"{path.read_text(encoding='utf-8')}\n{line}\n"):
        names, output = broken(copy)
    assert names == expected, output


def test_an_exception_that_is_not_needed_is_an_error(copy: Path) -> None:
    path = copy / "pyproject.toml"
    text = path.read_text(encoding="utf-8")
    unneeded = 'ignore_imports = [\n"sdpose.losses -> sdpose.cli",'
    assert "ignore_imports = [" in text
    with changed(path, text.replace("ignore_imports = [", unneeded, 1)):
        output = run("lint-imports", "--no-logo", "--no-cache", folder=copy)
    assert "No matches for ignored import sdpose.losses -> sdpose.cli" in output


def printing(folder: Path, *options: str) -> set[str]:
    """The files in which ruff finds a print()."""
    check = ("check", "--no-cache", "--select", "T20", "--output-format", "concise")
    output = run("ruff", *check, *options, *PACKAGES, folder=folder)
    return {line.partition(":")[0] for line in output.splitlines() if ": T20" in line}


def test_only_entry_points_print(copy: Path) -> None:
    assert printing(copy) == set()
    for file, found in {"sdpose/geometry.py": True, "sdpose/cli/__init__.py": False}.items():
        path = copy / file
        with changed(path, f"{path.read_text(encoding='utf-8')}\nprint()\n"):
            assert printing(copy) == ({file} if found else set())


def test_every_file_that_may_print_does(copy: Path, settings: dict[str, Any]) -> None:
    """A line of per-file-ignores that is no longer needed would let a print() come back."""
    ignores = settings["ruff"]["lint"]["per-file-ignores"]
    files = {name for name, rules in ignores.items() if "T20" in rules and "*" not in name}
    assert files <= printing(copy, "--isolated")
