"""A small run, made as a user makes one: synth, train, test, report."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_sdpose import sdpose

from sdpose.tools.synthetic.dataset import write_synthetic_coco


@pytest.fixture(scope="package")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds work_dirs/tiny_report, trained and evaluated, and its dataset."""
    folder = tmp_path_factory.mktemp("run")
    write_synthetic_coco(folder / "data/coco", num_train=40, num_val=16, seed=0)
    experiment = Path(__file__).with_name("tiny.yaml")
    trained = sdpose(folder, "train", experiment, "--data-root", "data/coco")
    assert trained.returncode == 0, trained.stderr
    work_dir = folder / "work_dirs/tiny_report"
    tested = sdpose(
        folder,
        *("test", work_dir / "experiment.yaml", work_dir / "latest.pth"),
        *("--out", work_dir / "results.json"),
    )
    assert tested.returncode == 0, tested.stderr
    assert tested.stderr.count(f"{work_dir}/latest.pth: ") == tested.stderr.count(" loaded (") == 1
    return folder
