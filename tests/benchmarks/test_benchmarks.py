"""The benchmarks run, small, as a user starts them; their numbers can be true."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

QUICKSTART_MACS = 11_206_656 + 338_688  # convolutions and linear layers; attention


@pytest.fixture
def run(repository, tmp_path):
    def run(*command: str) -> dict:
        out = tmp_path / "out.json"
        script, *arguments = command
        subprocess.run(
            [sys.executable, repository / "benchmarks" / script, *arguments, "--json", out],
            env={**os.environ, "OMP_NUM_THREADS": "1", "SDPOSE_CACHE": str(tmp_path / "cache")},
            cwd=tmp_path,
            check=True,
            timeout=300,
        )
        return json.loads(out.read_text())

    return run


def test_step(run) -> None:
    report = run("step.py", "--exp", "quickstart", "--batch", "4", "8", "--steps", "2")
    assert [row["batch"] for row in report["rows"]] == [4, 8]
    for row in report["rows"]:
        assert row["samples/s"] > 0
        assert row["memory MiB"] > 100
        assert 0 <= row["data wait %"] < 100
        # Multiply-accumulates of a sample's forward pass, from MFU: forward and backward, 2 each.
        peak = report["peak"]["float32"]["tflops"] * 1e12
        macs = row["MFU % alone"] / 100 * peak / row["alone"] / 6
        assert macs == pytest.approx(QUICKSTART_MACS, rel=1e-6)


def test_evaluate(run) -> None:
    report = run("evaluate.py", "--exp", "quickstart", "--batch", "16")
    (row,) = report["rows"]
    assert row["boxes"] == 21 * row["images"] > 0
    assert row["without model s"] > 0
    assert row["keypoints s"] + row["score s"] == pytest.approx(row["boxes"] / row["boxes/s"])


def test_scaling(run) -> None:
    report = run("scaling.py", "--exp", "quickstart", "--network", "12.5", "--jitter", "0")
    assert sum(report["counted"]["buckets"]) == report["counted"]["gradient_bytes"]
    weak = [row for row in report["rows"] if row["scaling"] == "weak"]
    assert [row["GPUs"] for row in weak] == [1, 2, 4, 8, 16, 32, 64]
    assert weak[0]["samples/s"] == pytest.approx(report["settings"]["gpu_rate"])
    efficiencies = [row["effic. %"] for row in weak]
    assert efficiencies == sorted(efficiencies, reverse=True)


@pytest.mark.parametrize("server", ["moto", "swift"])
def test_registry(run, server) -> None:
    small = ("--exp", "quickstart", "--megabytes", "20", "--repeats", "1", "--versions", "20")
    report = run("registry.py", "--server", server, *small)
    for row in report["transfers"]:
        assert row["MB/s"] == pytest.approx(row["MB"] / row["seconds"])
    up, down = (
        next(row["seconds"] for row in report["transfers"] if row["what"] == f"boto3 {way}load")
        for way in ("up", "down")
    )
    register, pulled = report["transfers"][:2]
    assert register["x boto3"] == pytest.approx(up / register["seconds"])
    assert pulled["x boto3"] == pytest.approx(down / pulled["seconds"])
    assert [row["store"] for row in report["listings"]] == ["S3", "S3", "folder", "folder"]
