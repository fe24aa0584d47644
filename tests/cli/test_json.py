"""--json prints JSON on standard output and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from sdpose.cli import cli
from sdpose.tools.synthetic.dataset import write_synthetic_coco


def value(*arguments: str) -> object:
    result = CliRunner().invoke(cli, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    return json.loads(result.stdout)


@pytest.mark.slow
def test_values_instead_of_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDPOSE_CACHE", str(tmp_path / "cache"))
    models = value("models")
    assert isinstance(models, list)
    assert [model["name"] for model in models][:2] == ["sdpose_t", "sdpose_s_v1"]
    write_synthetic_coco(tmp_path / "coco", num_train=3, num_val=2, seed=0)
    prepared = value("prepare", "quickstart", "--data-root", "coco")
    assert isinstance(prepared, dict)
    assert (prepared["num_train_images"], len(prepared["digest"])) == (3, 64)
    assert value("registry", "list") == {}
