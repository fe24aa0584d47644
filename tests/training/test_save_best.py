"""A run that keeps its best checkpoint by PCK, on keypoints of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from sdpose.errors import UserError
from sdpose.prepare.dataset import prepare_coco
from sdpose.report.history import read_history
from sdpose.runner.train import train
from sdpose.training.checkpoint import load_checkpoint

NAMES = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")
SKELETON = (
    f"skeleton={{keypoints: [{', '.join(NAMES)}], sigmas: [0.026, 0.025, 0.025, 0.035, 0.035], "
    "flip_pairs: [[left_eye, right_eye], [left_ear, right_ear]], "
    "upper_body: [nose, left_eye, right_eye]}"
)


@pytest.fixture(scope="module")
def heads(dataset, tmp_path_factory) -> Path:
    """The synthetic set with the first five keypoints alone."""
    folder = tmp_path_factory.mktemp("heads") / "coco"
    shutil.copytree(dataset, folder)
    for path in (folder / "annotations").glob("*.json"):
        document = json.loads(path.read_text())
        document["categories"][0] |= {"keypoints": list(NAMES), "skeleton": []}
        for row in document["annotations"]:
            row["keypoints"] = row["keypoints"][:15]
            row["num_keypoints"] = sum(v > 0 for v in row["keypoints"][2::3])
            points = np.array(row["keypoints"]).reshape(-1, 3)
            if row["num_keypoints"]:
                low, high = (f(points[points[:, 2] > 0, :2], axis=0) for f in (np.min, np.max))
                row["bbox"] = [*(low - 4).tolist(), *(high - low + 8).tolist()]
                row["area"] = float(np.prod(high - low + 8))
        path.write_text(json.dumps(document))
    return folder


def test_the_best_pck_is_kept(make, heads, tmp_path):
    changes = (f"data_root={heads}", SKELETON, "evaluation.save_best=PCK", "evaluation.interval=1")
    experiment = make(*changes, "total_epochs=4", "optimizer.lr=0.01")
    result = train(experiment)
    work_dir = Path(experiment.work_dir)
    rows = read_history(work_dir).evaluations
    assert len(rows) == 4
    assert all(0 <= row["PCK"] <= 1 for row in rows)
    best = max(rows, key=lambda row: row["PCK"])  # the first of equal ones
    assert result.best_metrics["PCK"] == pytest.approx(best["PCK"], abs=1e-4)
    assert result.best_checkpoint == work_dir / f"best_PCK_epoch_{best['epoch']}.pth"
    assert [path.name for path in work_dir.glob("best_*")] == [result.best_checkpoint.name]
    meta = load_checkpoint(result.best_checkpoint)["meta"]
    assert meta["best_metrics"]["PCK"] == result.best_metrics["PCK"]
    log = next(work_dir.glob("*.log")).read_text()
    assert f"PCK {result.best_metrics['PCK']:.4f} at epoch {best['epoch']}" in log

    longer = ("total_epochs=5", "optimizer.lr=0.01", "resume_from=auto")
    again = train(make(*changes, *longer))
    assert again.epochs == 5
    assert again.best_metrics["PCK"] >= result.best_metrics["PCK"]
    assert [path.name for path in work_dir.glob("best_*")] == [again.best_checkpoint.name]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (["evaluation.save_best=PCKh", SKELETON], "has no head boxes"),
        (["evaluation.save_best=PCK"], "not reported for COCO's 17 keypoints"),
    ],
)
def test_a_metric_that_will_not_be_there_is_refused_before_training(
    changes, reason, make, heads, dataset
):
    root = heads if SKELETON in changes else dataset
    experiment = make(f"data_root={root}", *changes)
    with pytest.raises(UserError, match=rf"evaluation\.save_best: [\s\S]*{reason}"):
        prepare_coco(experiment)
    with pytest.raises(UserError, match="save_best"):
        train(experiment)
    assert not list(Path(experiment.work_dir).glob("*.pth"))
