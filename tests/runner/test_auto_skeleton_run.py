"""`skeleton: auto` through a run: what was read is in everything that the run leaves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import MakeExperiment

from sdpose.checks.examine import examine
from sdpose.config import Experiment, parse_experiment
from sdpose.config.schema import Skeleton
from sdpose.errors import UserError
from sdpose.evaluation import write_results
from sdpose.prepare.dataset import prepare_coco
from sdpose.registry.register_run import register_run
from sdpose.report.run_report import report_run
from sdpose.runner.evaluate_checkpoint import evaluate_checkpoint
from sdpose.runner.finished import finished_training
from sdpose.runner.train import train

JOINTS = [0, 1, 2, 3, 4]
NAMES = ["beak", "l eye", "r eye", "left comb", "right comb"]


@pytest.fixture
def hens(tmp_path: Path, dataset: Path) -> Path:
    """The synthetic heads alone, as animals with keypoints of their own."""
    root = tmp_path / "hens"
    shutil.copytree(dataset, root)
    for path in (root / "annotations").glob("*.json"):
        document = json.loads(path.read_text())
        (category,) = document["categories"]
        category |= {"name": "hen", "keypoints": NAMES, "skeleton": [[1, 2], [1, 3]]}
        for row in document["annotations"]:
            row["keypoints"] = row["keypoints"][: 3 * len(JOINTS)]
            row["num_keypoints"] = sum(v > 0 for v in row["keypoints"][2::3])
        path.write_text(json.dumps(document))
    return root


def rename(root: Path, names: list[str]) -> None:
    for path in (root / "annotations").glob("*.json"):
        document: Any = json.loads(path.read_text())
        document["categories"][0]["keypoints"] = names
        path.write_text(json.dumps(document))


def read_from(document: str) -> Skeleton:
    skeleton = parse_experiment(document).skeleton
    assert skeleton is not None, "still auto"
    return skeleton


def test_a_run_holds_the_skeleton_that_was_read(
    make: MakeExperiment, hens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDPOSE_REGISTRY", str(tmp_path / "registry"))
    # No halves of "comb", and more keypoints are asked for than there are: nothing is refused.
    experiment = make(
        "skeleton=auto", f"data_root={hens}", "total_epochs=1", "evaluation.interval=1"
    )
    prepared = prepare_coco(experiment)
    assert prepared.num_train_persons > 0
    result = train(experiment)
    assert result.best_checkpoint is not None
    work_dir = Path(str(experiment.work_dir))
    skeleton = read_from((work_dir / "experiment.yaml").read_text())
    assert skeleton.keypoints == tuple(NAMES)
    assert skeleton.flip_pairs == (("l eye", "r eye"), ("left comb", "right comb"))
    checkpoint = torch.load(result.best_checkpoint, weights_only=True)
    assert read_from(checkpoint["meta"]["experiment"]) == skeleton

    # The launcher of a job cannot read the data: the job has compared the skeletons.
    assert finished_training(experiment).best_checkpoint == result.best_checkpoint

    evaluated = evaluate_checkpoint(experiment, result.best_checkpoint)
    assert evaluated is not None
    assert len(evaluated.keypoints[0]["keypoints"]) == 3 * len(NAMES)
    write_results(evaluated, tmp_path / "results.json")
    resolved = parse_experiment((work_dir / "experiment.yaml").read_text())
    page = tmp_path / "report.html"
    report_run(
        resolved,
        page,
        results=tmp_path / "results.json",
        checkpoint=result.best_checkpoint,
        facts={"dataset_digest": prepared.digest},
    )
    assert "left comb" in page.read_text()

    shutil.rmtree(hens)  # a step that registers has no data
    version = register_run(
        experiment,
        checkpoint=result.best_checkpoint,
        trained_as=result.best_checkpoint,
        results=tmp_path / "results.json",
        dataset_digest=prepared.digest,
        mlflow_run_id="",
        runner="local",
        git_commit="",
    )
    assert read_from(version.manifest["experiment"]) == skeleton
    assert version.manifest["model"]["keypoints"]["names"] == NAMES


def test_a_file_with_another_skeleton_does_not_continue_the_run(
    make: MakeExperiment, hens: Path
) -> None:
    experiment = make("skeleton=auto", f"data_root={hens}", "total_epochs=1")
    train(experiment)
    longer = experiment.model_copy(update={"total_epochs": 2})
    rename(hens, ["beak", "l eye", "r eye", "left wattle", "right wattle"])
    with pytest.raises(UserError, match=r"skeleton.keypoints: .*left comb.* -> .*left wattle"):
        train(longer)
    report = examine(longer)
    assert any("left wattle" in problem.what + problem.remedy for problem in report.problems)


def unreadable(make: MakeExperiment, hens: Path) -> Experiment:
    rename(hens, ["beak", "l eye", "r eye", "left comb", "tail"])
    return make("skeleton=auto", f"data_root={hens}")


def test_doctor_prepare_and_train_refuse_what_is_not_said(make: MakeExperiment, hens: Path) -> None:
    experiment = unreadable(make, hens)
    for step in (prepare_coco, train):
        with pytest.raises(UserError, match="have no partner: left comb\nadd to the experiment"):
            step(experiment)
    assert not Path(str(experiment.work_dir)).exists()
    (problem,) = examine(experiment).problems
    assert problem.what.startswith("skeleton: auto: category 'hen' (id 1) in ")
    assert "\n  # ? no partner: left comb\n  flip_pairs:\n" in problem.remedy
