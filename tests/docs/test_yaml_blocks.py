"""The YAML blocks of the README and the guides are taken; shipped experiments are as they are."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from components.profile import parse_cluster
from sdpose.config import load_experiment
from sdpose.documents import parse_yaml_value
from sdpose.sweeps import expand, load_sweep

REPOSITORY = Path(__file__).resolve().parents[2]
PROFILE = "namespace: pose\nimage: registry.test/sdpose:1\ndata_root: s3://b/coco\nwork_dirs: s3://b/runs\n"
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
BLOCKS = [
    pytest.param(textwrap.dedent(text), id=f"{page.name}-{number}")
    for page in PAGES
    for number, text in enumerate(
        re.findall(r"^ *```yaml\n(.*?)^ *```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    )
]


@pytest.mark.parametrize("text", BLOCKS)
def test_block_is_taken(text: str, tmp_path: Path) -> None:
    values = parse_yaml_value(text, "block")
    path = tmp_path / "block.yaml"
    path.write_text(text, encoding="utf-8")
    if "exp_name" in values:
        load_experiment(path)
    elif "name" in values:
        expand(load_sweep(str(path)), rungs=str(tmp_path))
    elif values.keys() & {"promotion", "registry"}:
        path.write_text(f"base: maskedkd_v2\n{text}", encoding="utf-8")
        load_experiment(path)
    else:
        parse_cluster(f"{PROFILE}{text}")


def test_blocks_are_found() -> None:
    assert len(BLOCKS) >= 8
