"""The old habit: an mmpose 0.x configuration where an experiment is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipelines import submit
from sdpose.cli import cli
from sdpose.config import load_experiment
from sdpose.errors import UserError
from sdpose.tools.mmpose_import.direct import experiment_loader, with_experiment_file
from sdpose.tools.mmpose_import.report import NotSupportedError
from sdpose.tools.synthetic.dataset import write_synthetic_coco

CONFIGS = Path(__file__).parent / "mmpose" / "coco"
MASKED, TINY = CONFIGS / "sdpose_s_v1_maskedkd.py", CONFIGS / "tiny.py"


def test_a_configuration_is_trained_and_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_synthetic_coco(tmp_path / "data/coco", num_train=4, num_val=2, seed=0)
    changes = ["--set", "log_config.hooks=[TextLoggerHook]", "--set", "seed=3"]
    trained = CliRunner().invoke(cli, ["train", str(TINY), *changes], catch_exceptions=False)
    assert trained.exit_code == 0, trained.output
    for said in ("settings taken", "not supported: data.train.pipeline[6]", "added: data_root"):
        assert said in trained.stderr
    work_dir = tmp_path / "work_dirs/their_config"
    kept = load_experiment(work_dir / "experiment.yaml")
    assert kept.exp_name == "their_config"
    assert kept.seed == 3
    assert kept.data_root == "data/coco"

    command = ["test", str(TINY), str(work_dir / "latest.pth"), "--eval", "mAP"]
    tested = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert tested.exit_code == 0, tested.output
    assert "mAP on ground truth boxes" in tested.stdout


@pytest.mark.slow
def test_a_lost_loss_ends_every_entry_with_exit_code_3(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sdpose", "train", str(MASKED)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "SimpleConsistencyLoss" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
    for arguments in (["test", str(MASKED), "x.pth"], ["launch", "train", str(MASKED)]):
        result = CliRunner().invoke(cli, arguments)
        assert isinstance(result.exception, NotSupportedError), arguments
    result = CliRunner().invoke(submit.submit, ["--exp", str(MASKED), "--runner", "local"])
    assert isinstance(result.exception, NotSupportedError)

    load = experiment_loader(str(MASKED), allow_unsupported=True)
    experiment = load(["exp_name=mine"], data_root="D")
    assert experiment.model.keypoint_head.loss_kpt_token_dist is None
    assert (experiment.exp_name, experiment.data_root) == ("mine", "D")
    with pytest.raises(UserError, match=r"maskedkd\.py: .*epochs .*unknown key"):
        load(["epochs=1"])


def test_submit_shows_what_it_would_run_of_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("KFP_ENDPOINT", "SDPOSE_CLUSTER"):
        monkeypatch.delenv(name, raising=False)
    command = ["--exp", str(TINY), "--dry-run", "--runner", "local"]
    submit.submit.main(command, standalone_mode=False)
    printed = capfd.readouterr()
    assert "experiment: their_config, digest " in printed.out
    assert printed.err.count("settings taken") == 1


def test_processes_of_launch_read_the_experiment_not_the_configuration() -> None:
    words = ["--nproc-per-node", "2", "train", "--set", "seed=1", str(TINY), "--allow-unsupported"]
    with with_experiment_file(words, ("train", "test")) as given:
        assert given[:5] == words[:5]
        assert len(given) == 6
        assert Path(given[5]).suffix == ".yaml"
        assert load_experiment(given[5]).exp_name == "their_config"
    assert not Path(given[5]).exists()
    for other in (["train", "maskedkd_v2"], ["mine.py", "train"], []):
        with with_experiment_file(other, ("train", "test")) as given:
            assert given == other


def test_allow_unsupported_is_for_configurations() -> None:
    with pytest.raises(UserError, match=r"'quickstart' is none"):
        experiment_loader("quickstart", allow_unsupported=True)


@pytest.mark.parametrize("arguments", [["config", "show"], ["prepare"], ["doctor"]])
def test_other_commands_name_those_that_read_it(arguments: list[str]) -> None:
    result = CliRunner().invoke(cli, [*arguments, str(TINY)])
    assert isinstance(result.exception, UserError)
    assert "sdpose config import" in str(result.exception)
