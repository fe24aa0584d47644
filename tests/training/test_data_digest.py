"""The registered data is the data that the weights have seen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from components.evaluate import evaluate
from components.require_trials import require_trials
from components.train import train as train_step
from sdpose.comparison.trial_outcome import TrialOutcome
from sdpose.config import dump_experiment
from sdpose.errors import UserError
from sdpose.prepare.dataset import prepare_coco
from sdpose.runner.evaluate_checkpoint import evaluate_checkpoint
from sdpose.runner.finished import finished_training, require_data
from sdpose.runner.train import train
from sdpose.sweeps.trial import outcomes_on, run_trial


@pytest.fixture
def other_data(make, dataset: Path, tmp_path: Path) -> Path:
    """A person less."""
    other = shutil.copytree(dataset, tmp_path / "other_data")
    annotations = other / make().data.train.ann_file
    content = json.loads(annotations.read_text())
    content["annotations"] = content["annotations"][1:]
    annotations.write_text(json.dumps(content))
    return other


def state_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("resume", [(), ("resume_from=auto",)])
def test_a_finished_work_dir_with_other_data_is_refused(make, other_data: Path, resume) -> None:
    first = train(make("total_epochs=1"))
    work_dir = first.last_checkpoint.parent
    before = state_of(work_dir)
    changed = make("total_epochs=1", f"data_root={other_data}", *resume)
    with pytest.raises(UserError, match=r"of a finished run, on other data(.|\n)*--overwrite"):
        train(changed)
    assert state_of(work_dir) == before
    assert train(make("total_epochs=1")) == first

    again = train(changed.model_copy(update={"resume_from": None}), overwrite=True)
    digest = prepare_coco(changed).digest
    assert again.dataset_digest == digest != first.dataset_digest
    meta = torch.load(again.last_checkpoint, weights_only=True)["meta"]
    assert meta["dataset_digest"] == digest
    require_data(again, digest)
    with pytest.raises(UserError, match="was trained on other data"):
        require_data(again, first.dataset_digest)


def test_data_that_is_gone_is_said(make, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is trained, and the results are still there."""
    first = train(make("total_epochs=1"))
    capsys.readouterr()
    assert train(make("total_epochs=1", "data_root=/nowhere")) == first
    assert "/nowhere is not there, so that the data is not compared" in capsys.readouterr().out


def test_the_steps_compare_it(make, tmp_path: Path, other_data: Path, capsys) -> None:
    """Train, then evaluate, with the digest of the first step."""
    experiment = make("total_epochs=1")
    digest = prepare_coco(experiment).digest
    checkpoint = SimpleNamespace(path=str(tmp_path / "artifact"), metadata={})
    given = {
        "experiment": dump_experiment(experiment),
        "weights_digest": "",
        "code_version": "",
        "overwrite": False,
        "checkpoint": checkpoint,
    }
    with pytest.raises(SystemExit) as ended:
        train_step.python_func(dataset_digest="0" * 64, **given)
    assert ended.value.code == 2
    assert "was trained on other data" in capsys.readouterr().err
    train_step.python_func(dataset_digest=digest, **given)

    with pytest.raises(SystemExit) as ended:
        evaluate.python_func(
            experiment=dump_experiment(make("total_epochs=1", f"data_root={other_data}")),
            data_source="",
            dataset_digest=digest,
            checkpoint_sha256="",
            code_version="",
            mlflow_run_id="",
            checkpoint=checkpoint,
            metrics=None,
            results=SimpleNamespace(path=str(tmp_path / "results")),
            report=None,
        )
    assert ended.value.code == 2
    assert "is not the dataset that was checked: its digest was" in capsys.readouterr().err
    weights = Path(checkpoint.path) / checkpoint.metadata["file"]
    assert evaluate_checkpoint(experiment, weights, dataset_digest=digest) is not None


def test_a_trial_on_other_data_counts_as_failed(make) -> None:
    experiment = make("total_epochs=1")
    train(experiment)
    trained = finished_training(experiment)
    outcome = run_trial("sweep", experiment, lambda _: trained).to_json()
    assert TrialOutcome.from_json(outcome).dataset_digest == trained.dataset_digest
    assert outcomes_on([outcome], trained.dataset_digest) == [TrialOutcome.from_json(outcome)]
    (failed,) = outcomes_on([outcome], "0" * 64)
    assert (failed.status, failed.ap) == ("failed", None)
    assert "trained on other data" in failed.message
    with pytest.raises(SystemExit, match="1 of 1 trials failed"):
        require_trials.python_func([outcome], "0" * 64)
    require_trials.python_func([outcome], trained.dataset_digest)
