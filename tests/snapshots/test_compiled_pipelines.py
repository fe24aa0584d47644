"""KFP's IR of every pipeline: all but the source code of steps, descriptions and kfp's version."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from snapshots.snapshot import FOLDER, assert_unchanged

from components.profile import load_cluster
from pipelines.sdpose_pipeline import compile_pipeline, make_pipeline
from pipelines.sweep_pipeline import make_sweep_pipeline

CLUSTER = load_cluster(FOLDER.parent / "pipelines" / "cluster.yaml")
PIPELINES: dict[str, Any] = {
    "local": lambda: make_pipeline(promotes=True),
    "cluster": lambda: make_pipeline(CLUSTER, promotes=True),
    "sweep_local": lambda: make_sweep_pipeline(None, parallel=2),
    "sweep_cluster": lambda: make_sweep_pipeline(CLUSTER, parallel=2),
}
# The functions of the steps, as kfp puts them into the command of a container.
SOURCE = re.compile(r"^\nimport kfp\n.*", re.DOTALL)


def normalized(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: "(text)" if key == "description" and isinstance(each, str) else normalized(each)
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [normalized(each) for each in value]
    if isinstance(value, str):
        value = SOURCE.sub("(source code)", value)
        return re.sub(r"\bkfp([-=]+)\d+\.\d+\.\d+\b", r"kfp\1VERSION", value)
    return value


@pytest.mark.parametrize("name", PIPELINES)
def test_compiled_pipelines(name: str, tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    compile_pipeline(PIPELINES[name](), path)
    text = path.read_text(encoding="utf-8")
    documents = [normalized(each) for each in yaml.safe_load_all(text)]
    assert_unchanged(f"pipelines/{name}.yaml", yaml.safe_dump_all(documents, width=100))
