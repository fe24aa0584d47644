"""The core trains without any service, and trains the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sdpose.config import dump_experiment
from sdpose.runner.train import train


@pytest.mark.slow
def test_the_core_alone_leaves_the_same_checkpoints(make, tmp_path: Path) -> None:
    train(make(work_dir="whole"))
    experiment = tmp_path / "alone.yaml"
    experiment.write_text(dump_experiment(make(work_dir="alone")))
    program = Path(__file__).with_name("core_alone.py")
    process = subprocess.run(
        [sys.executable, str(program), str(experiment)], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    assert "Epoch [3][12/12]\tlr: " in process.stdout
    assert "Epoch(val) [3]\tAP: " in process.stdout

    names = {path.name for path in (tmp_path / "whole").glob("*.pth")}
    assert names == {path.name for path in (tmp_path / "alone").glob("*.pth")}
    assert {"latest.pth", "epoch_3.pth"} < names
    for name in names:
        whole, alone = (
            torch.load(tmp_path / folder / name, weights_only=True) for folder in ("whole", "alone")
        )
        assert whole.keys() == alone.keys()
        for key in ("state_dict", "optimizer", "usual_loss"):
            torch.testing.assert_close(whole[key], alone[key], rtol=0, atol=0)
        for meta in (whole["meta"], alone["meta"]):
            del meta["experiment"], meta["experiment_digest"]  # their work_dir
            del meta["seconds"]
        assert whole["meta"] == alone["meta"]
