"""The manifests as a cluster gets them: what `kubectl kustomize` prints."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Object = dict[str, Any]

FULL = "overlays/full"
SECRETS_OF = {"overlays/dev": ["secrets/dev"], FULL: ["secrets/mlflow-auth"]}


@pytest.fixture(scope="session")
def k8s(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder k8s with its secrets filled in, as a user would."""
    folder = tmp_path_factory.mktemp("k8s") / "k8s"
    shutil.copytree(repository / "k8s", folder, ignore=shutil.ignore_patterns("*.env"))
    for example in (folder / "secrets").rglob("*.env.example"):
        lines = example.read_text().splitlines()
        assert all(line.startswith("#") or line.endswith("=") for line in lines), "a real secret?"
        filled = "\n".join(line + "x" if line.endswith("=") else line for line in lines)
        example.with_suffix("").write_text(filled)
    # prod with all that it leaves to be chosen, by taking out the comment signs, as a user does.
    shutil.copytree(folder / "overlays/prod", folder / FULL)
    kustomization = folder / FULL / "kustomization.yaml"
    kustomization.write_text(re.sub(r"# (- \S+/components/)", r"\1", kustomization.read_text()))
    return folder


@pytest.fixture(scope="session")
def render(k8s: Path) -> Callable[[str], list[Object]]:
    """The objects of a folder below k8s."""
    if shutil.which("kubectl") is None:
        message = "kubectl (1.27 or newer) is not on this machine: it renders k8s/"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(message)
    rendered: dict[str, list[Object]] = {}

    def objects(folder: str) -> list[Object]:
        if folder not in rendered:
            command = ["kubectl", "kustomize", str(k8s / folder)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            assert not done.stderr, done.stderr  # kustomize warns of what it will refuse one day
            rendered[folder] = list(yaml.safe_load_all(done.stdout))
        return rendered[folder]

    return objects


@pytest.fixture(scope="session")
def everything(k8s: Path, render: Callable[[str], list[Object]]) -> Callable[[str], list[Object]]:
    """An overlay with what is applied beside it: secrets, the COCO job, the example PyTorchJob."""

    def objects(overlay: str) -> list[Object]:
        beside = [
            loaded
            for name in ("fetch-coco.yaml", "pytorchjob.yaml")
            for loaded in yaml.safe_load_all((k8s / name).read_text(encoding="utf-8"))
        ]
        folders = ["secrets", *SECRETS_OF.get(overlay, [])]
        secrets = [secret for folder in folders for secret in render(folder)]
        return [*render(overlay), *secrets, *beside]

    return objects
