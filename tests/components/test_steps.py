"""Single steps, called as kfp's executor calls them."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.prepare_coco import prepare_coco
from sdpose.config import dump_experiment, load_experiment
from sdpose.errors import FAILURE_FILE_VARIABLE, USER_ERROR_EXIT_CODE
from sdpose.runner.launch import train_on_this_machine
from sdpose.tools.synthetic.dataset import write_synthetic_coco

TINY = Path(__file__).parents[1] / "pipelines/tiny.yaml"
WITHOUT_TRACKERS = "log_config.hooks=[TextLoggerHook]"


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    write_synthetic_coco(tmp_path / "coco", num_train=8, num_val=2, seed=0)
    return tmp_path / "coco"


def test_a_users_error_leaves_its_text_for_the_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(FAILURE_FILE_VARIABLE, str(tmp_path / "failure"))
    document = dump_experiment(load_experiment(TINY, data_root=str(tmp_path / "nowhere")))
    with pytest.raises(SystemExit) as stopped:
        prepare_coco.python_func(experiment=document, data_source="")
    assert stopped.value.code == USER_ERROR_EXIT_CODE
    message = (tmp_path / "failure").read_text()
    assert message.startswith(f"data_root is not a folder: {tmp_path}/nowhere")
    assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.slow
def test_training_takes_one_process_for_each_gpu(coco: Path, tmp_path: Path) -> None:
    """Here two processes on the CPU; the result comes back, and a user's error is no traceback."""
    experiment = load_experiment(
        TINY,
        [WITHOUT_TRACKERS, "total_epochs=1", "data.samples_per_gpu=4"],
        data_root=str(coco),
        work_dir=str(tmp_path / "work"),
    )
    result = train_on_this_machine(experiment, processes=2)
    assert result.epochs == 1
    assert result.best_checkpoint == tmp_path / "work/best_AP_epoch_1.pth"
    assert result.best_checkpoint.is_file()
    assert "2 processes, global batch 8" in next((tmp_path / "work").glob("*.log")).read_text()

    other = experiment.model_copy(update={"seed": 1})
    with pytest.raises(SystemExit) as stopped:
        train_on_this_machine(other, processes=2)
    assert stopped.value.code == USER_ERROR_EXIT_CODE
