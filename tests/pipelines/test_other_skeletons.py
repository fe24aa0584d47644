"""The whole pipeline and what is done with its model, for objects that are not COCO's person."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from sdpose.cli import cli
from sdpose.registry import read_version
from sdpose.storage import open_store

Submit = Callable[..., subprocess.Popen[str]]
TINY = Path(__file__).with_name("tiny.yaml")
# Of the synthetic sets: what an experiment says, and what must have come of it.
SETS: dict[str, tuple[str, int, str]] = {
    "head5": ("auto", 5, "left_eye"),
    "crowdpose": ("crowdpose", 14, "top_head"),
    "hand21": ("hand21", 21, "forefinger4"),
}


def run(*arguments: str | Path) -> str:
    done = CliRunner().invoke(cli, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("name", SETS)
def test_a_set(name: str, submit: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said, count, member = SETS[name]
    data = tmp_path / "data"
    options = ["--train", "12", "--val", "4", "--seed", "0", "--skeleton", name]
    run("synth", data, *options)
    (tmp_path / "own.yaml").write_text(
        TINY.read_text() + f"skeleton: {said}\ntrain_pipeline: {{prob_half_body: 0}}\n"
    )
    process = submit("--exp", tmp_path / "own.yaml", "--data-root", data, cwd=tmp_path)
    output, error = process.communicate(timeout=800)
    assert process.returncode == 0, error + output[-3000:]

    work_dir = tmp_path / "work_dirs/tiny"
    resolved = yaml.safe_load((work_dir / "experiment.yaml").read_text())["skeleton"]
    assert len(resolved["keypoints"]) == len(resolved["sigmas"]) == count
    assert member in resolved["keypoints"]
    summary: dict[str, Any] = json.loads((work_dir / "summary.json").read_text())
    version = read_version(open_store(tmp_path / "work_dirs/registry"), "tiny", 1)
    keypoints = version.manifest["model"]["keypoints"]
    assert keypoints["names"] == resolved["keypoints"]
    assert version.manifest["model"]["output"]["shape"][1] == count
    assert version.manifest["evaluation_settings"]["keypoints"] == resolved["keypoints"]
    report = next(work_dir.glob("report*.html")).read_text()
    assert member.replace("_", " ") in report

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SDPOSE_REGISTRY", raising=False)
    checkpoint = summary["best_checkpoint"]
    run("export", checkpoint, "--out", "model.onnx")
    boxes = next((data / "annotations").glob("*val*.json"))
    images = next(path for path in data.iterdir() if path.name.startswith("val"))
    results = {}
    for model in (checkpoint, "model.onnx", "registry://tiny/1"):
        run("predict", model, images, "--boxes", boxes, "--out", "out")
        results[model] = json.loads((tmp_path / "out/results.json").read_text())
        written = yaml.safe_load((tmp_path / "out/skeleton.yaml").read_text())
        assert written["skeleton"] == resolved
    rows = results[checkpoint]
    assert {len(row["keypoints"]) for row in rows} == {3 * count}
    assert len({len(rows) for rows in results.values()}) == 1
