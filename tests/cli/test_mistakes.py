"""What people type wrongly: each slip is answered in one line that names the remedy."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import sdpose.__main__
from pipelines import submit
from sdpose import cli

VIS = "model.keypoint_head.loss_vis_token_dist"
KPT = "model.keypoint_head.loss_kpt_token_dist"
SHOW = "sdpose config show maskedkd_v2 --set"

MISTAKES = {
    # names
    "sdpose train quickstrat": "did you mean 'quickstart'",
    "sdpose train SDPose-S-V1": "did you mean 'sdpose_s_v1'",
    "sdpose train maskedkd": "submit.py --sweep maskedkd",
    "submit.py --sweep quickstart": "submit.py --exp quickstart",
    "submit.py --exp maskedkd_ratio": "did you mean 'maskedkd_ratio_0.5'",
    "sdpose train quickstart.yaml": "has one of that name: quickstart",
    "sdpose train mine.yml": "did you mean 'mine.yaml'",
    "sdpose train experiments/mine.yaml": "there is no folder experiments",
    "sdpose train work_dirs/done": "its experiment is work_dirs/done/experiment.yaml",
    "sdpose test latest.pth quickstart": "the experiment comes first",
    f"{SHOW} exp_name=1024": "in quotes it is text: '1024'",
    f"{SHOW} 'exp_name=my exp'": "only letters, digits",
    f"{SHOW} exp_name=2026-11-30/maskedkd": "only letters, digits",
    # keys
    f"{SHOW} masking_ratio=0.5": "did you mean 'mask_ratio'",
    f"{SHOW} model.keypoint_head.mask_ratio=0.5": f"'{VIS}.mask_ratio' or '{KPT}.mask_ratio'",
    f"{SHOW} interval=5": "'checkpoint_config.interval', 'evaluation.interval'",
    f"{SHOW} batch_size=32": "did you mean 'data.samples_per_gpu'",
    f"{SHOW} epochs=100": "did you mean 'total_epochs'",
    f"{SHOW} learning_rate=1e-3": "did you mean 'optimizer.lr'",
    f"{SHOW} patch_size=[4,4]": "'model.keypoint_head.tokenpose_cfg.patch_size'",
    f"{SHOW} tokenpose_cfg.depth=3": "'model.keypoint_head.tokenpose_cfg'",
    f"{SHOW} optimizer:lr=1": "did you mean 'optimizer.lr'",
    f"{SHOW} --lr=1": "did you mean 'lr'",
    f"{SHOW} optimizer.lr": "expected key.path=value",
    f"{SHOW} nothing_like_it=1": "`sdpose config keys` lists every key",
    "sdpose train mine.yaml": "mine.yaml: evaluatoin: unknown key; did you mean 'evaluation'",
    # values
    f"{SHOW} mask_ratio=30": "30 % is 0.3",
    f"{SHOW} mask_ratio=30%": "expected a number, as in 0.5",
    f"{SHOW} lr=0,001": "expected a number, as in",
    f"{SHOW} mask_strategy=important": "did you mean 'importance'",
    f"{SHOW} lr_config.step=200,260": "expected a list, as in [70, 90]",
    f"{SHOW} total_epochs=ten": "expected an integer, as in 100",
    f"{SHOW} use_gt_bbox=ja": "expected true or false",
    f"{SHOW} samples_per_gpu=0": "greater than 0",
    f"{SHOW} optimizer=Adam": "as in {type: Adam}",
    f"{SHOW} optimizer.type=adam": "did you mean 'Adam'",
    f"{SHOW} amp=bfloat16": "did you mean 'bf16'",
    f"{SHOW} evaluation.save_best=mAP": "did you mean 'AP'",
    f"{SHOW} data_cfg.image_size=256": "expected a list, as in [288, 384]",
    f"{SHOW} data_cfg.image_size=[256,192]": "data_cfg.image_size (width, height)",
    f"{SHOW} load_from=s3://bucket/best.pth": "sdpose registry pull",
    f"{SHOW} loss_vis_token_dist={{type:MaskedTokenDistilLoss}}": "a space behind the colon",
    "sdpose config show sdpose_s_v1 --set mask_ratio=0.5": "set type: MaskedTokenDistilLoss",
    # commands
    "sdpose eval quickstart": "sdpose test EXP CHECKPOINT",
    "sdpose val": "sdpose test EXP CHECKPOINT",
    "sdpose resume quickstart": "submit.py resume RUN",
    "sdpose dist_train quickstart 8": "sdpose launch --nproc-per-node 8 train EXP",
    "sdpose run": "python pipelines/submit.py --exp EXP",
    "sdpose trian quickstart": "did you mean train",
    "sdpose show quickstart": "sdpose config show",
    "sdpose promote": "sdpose registry promote",
    "sdpose quickstart": "sdpose train quickstart",
    "sdpose config shwo": "did you mean show",
    "sdpose launch 8 train quickstart": "--nproc-per-node 8 train EXP",
    "sdpose launch --gpus 8 train quickstart": "--nproc-per-node 8 train EXP",
    "submit.py quickstart": "submit.py --exp quickstart",
    "submit.py train quickstart": "submit.py --exp quickstart",
    "submit.py": "--exp NAME",
    "sdpose train": "see sdpose train --help",
    # options
    "sdpose train quickstart --lr 1e-3": "use --set lr=1e-3",
    "sdpose train quickstart --epochs=3": "use --set total_epochs=3",
    "sdpose train quickstart --image-size [96,128]": "use --set data_cfg.image_size=[96,128]",
    "sdpose train quickstart --gpus 8": "sdpose launch --nproc-per-node 8 train EXP",
    "sdpose train quickstart 8": "sdpose launch --nproc-per-node 8 train EXP",
    "sdpose train quickstart --cfg-options optimizer.lr=1": "use --set KEY.PATH=VALUE",
    "sdpose train quickstart --work_dir x": "write --work-dir",
    "sdpose train quickstart --output-dir x": "use --work-dir",
    "sdpose train quickstart -resume": "use --resume-from auto",
    "sdpose train quickstart latest.pth": "--resume-from latest.pth continues it",
    "sdpose train quickstart --overwrit": "did you mean --overwrite",
    "sdpose train quickstart --set k={type: A, b: c}": "--set 'k={type: A, b: c}'",
    "sdpose train quickstart --set=k={type: A, b: c}": "--set 'k={type: A, b: c}'",
    "sdpose train --exp quickstart": "give its name first: sdpose train EXP",
    "sdpose train quickstart --dry-run": "--exp EXP --dry-run",
    "sdpose train quickstart --set optimizer.lr 1e-3": "write --set optimizer.lr=1e-3",
    "sdpose train quickstart --set seed=1 lr=1": "repeat the option: --set lr=1",
    "sdpose test quickstart --checkpoint best.pth": "sdpose test EXP CHECKPOINT",
    "sdpose test quickstart best.pth --eval AP": "'mAP'",
    "sdpose registry promote m 1 production": "'--channel'. Choose from: candidate, staging",
    "sdpose export best.pth onnx": "write --format onnx",
    "submit.py --config quickstart": "use --exp NAME",
    "submit.py --exp quickstart --lr 1e-3": "use --set lr=1e-3",
    "submit.py --exp quickstart --gpus 8": "here all GPUs are used",
    "submit.py resume done": "work_dirs/done/pipeline/run.json: not what submit.py writes there",
    # paths
    "sdpose predict registry://quickstart photo.png": "registry://quickstart/production",
    "sdpose compare nowhere": "no work dir of a run",
    "sdpose report nowhere": "'nowhere' does not exist",
    "sdpose prepare quickstart --fetch ftp://x": "s3://bucket/prefix",
}


@pytest.mark.parametrize(("line", "remedy"), MISTAKES.items(), ids=MISTAKES)
def test_a_mistake_is_answered_in_one_line(
    line: str,
    remedy: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "work_dirs/done/pipeline").mkdir(parents=True)
    (tmp_path / "work_dirs/done/pipeline/run.json").write_text("{}")
    (tmp_path / "work_dirs/done/experiment.yaml").touch()
    (tmp_path / "mine.yaml").write_text("base: quickstart\nevaluatoin: {interval: 1}\n")
    cv2.imwrite(str(tmp_path / "photo.png"), np.zeros((8, 8, 3), np.uint8))
    monkeypatch.chdir(tmp_path)
    for name in ("KFP_ENDPOINT", "KF_PIPELINES_ENDPOINT", "SDPOSE_EXPERIMENTS", "SDPOSE_CLUSTER"):
        monkeypatch.delenv(name, raising=False)
    program, *arguments = line.split() if "{type: " in line else shlex.split(line)
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    with pytest.raises(SystemExit) as ended:
        (submit if program == "submit.py" else cli).main()
    notes = [text for text in capsys.readouterr().err.splitlines() if text]
    [answer] = [text for text in notes if not text.startswith("--set: ")]
    assert ended.value.code == 2
    assert answer.startswith("error: ")
    assert remedy in answer
    assert len(answer) < 500


def test_ctrl_c_while_modules_are_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupting:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "sdpose.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "sdpose.cli")
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        sdpose.__main__.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "\ninterrupted\n"
