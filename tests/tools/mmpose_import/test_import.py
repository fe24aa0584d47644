"""`sdpose config import`: mmpose 0.x configurations become experiments, and nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from sdpose.cli import cli
from sdpose.config import load_experiment
from sdpose.errors import UserError
from sdpose.tools.mmpose_import import import_config
from sdpose.tools.mmpose_import.python_file import read_python_config

CONFIGS = Path(__file__).parent / "mmpose" / "coco"


def test_every_setting_is_kept_or_named(tmp_path: Path) -> None:
    out = tmp_path / "masked.yaml"
    command = ["config", "import", str(CONFIGS / "sdpose_s_v1_maskedkd.py"), "-o", str(out)]
    command.append("--allow-unsupported")
    result = CliRunner().invoke(cli, [*command, "--json"], catch_exceptions=False)
    report = json.loads(result.stdout)
    assert [line.split(" = ")[0] for line in report["unsupported"]] == [
        "model.keypoint_head.loss_kpt_token_dist",
        "data.train.pipeline[6]",
        "data.persistent_workers",
        "log_config.hooks[1]",
    ]
    assert report["variables"] == [
        *("channel_cfg", "data_cfg", "dataset_info", "date", "joints", "mask_ratio", "token_loss"),
        *("train_pipeline", "val", "val_pipeline"),
    ]
    assert "SimpleConsistencyLoss" in out.read_text()  # whoever opens the file reads it too

    experiment = load_experiment(out)
    assert out.read_text().count("\n") < 60  # differences from sdpose_s_v1 alone
    head = experiment.model.keypoint_head
    assert experiment.exp_name == "sdpose_s_v1_1030"
    assert experiment.work_dir == "./work_dirs/sdpose_s_v1_1030"
    assert head.loss_vis_token_dist is not None
    assert head.loss_vis_token_dist.mask_strategy == "importance"
    assert head.loss_vis_token_dist.mask_ratio == 0.5
    assert head.loss_kpt_token_dist is None
    assert experiment.optimizer.weight_decay == 0.01  # PyTorch's default for AdamW
    assert experiment.lr_config.step == (100, 200, 300)  # mmcv: every 100 epochs
    assert experiment.train_pipeline.prob_half_body == 0  # the step is not in the pipeline
    assert experiment.train_pipeline.rot_prob == 0.6
    assert experiment.data.train.ann_file == "annotations/person_keypoints_train2017.json"
    assert experiment.data.train.img_prefix == "train2017"
    assert experiment.data_cfg.bbox_file.startswith("person_detection_results/")
    assert experiment.data_root == "/dockerdata/coco"

    again = CliRunner().invoke(cli, command)
    assert isinstance(again.exception, UserError)
    assert "--force" in str(again.exception)


def test_inheritance_is_mmcvs() -> None:
    imported = import_config(CONFIGS / "child.py")
    experiment = imported.experiment
    assert experiment.exp_name == "child_exp"
    head = experiment.model.keypoint_head
    assert head.tokenpose_cfg.cycle_num == 3
    assert head.loss_kpt_token_dist is not None
    assert head.loss_kpt_token_dist.type == "TokenDistilLoss"
    assert experiment.optimizer.model_dump()["momentum"] == 0  # not the schema's 0.9
    assert experiment.lr_config.policy == "cosine"
    assert experiment.lr_config.min_lr_ratio == pytest.approx(1e-3)
    assert experiment.lr_config.warmup is None


def test_hrnet_is_compared_stage_by_stage() -> None:
    imported = import_config(CONFIGS / "sdpose_b.py")
    assert "base: sdpose_b\n" in imported.text
    assert imported.experiment.model.backbone.width == 32
    assert imported.experiment.model.pretrained == "pretrained_model/hrnet/hrnet_w32-36af842e.pth"
    differing = [line for line in imported.report.unsupported if "backbone" in line]
    assert differing == ["model.backbone.extra.stage3.num_blocks = (4, 4, 2)"]


@pytest.mark.parametrize(
    "line",
    [
        "import os",
        "x = __import__('os').system('true')",
        "x = open('/etc/passwd').read()",
        "x = (1).__class__.__bases__",
        "x = [].__class__",
        "x = 'a'.format_map({})",
        "def f(): pass",
        "for i in range(3): pass",
        "x = (lambda: 1)()",
        "x = eval('1')",
        "x = 9 ** 9 ** 9",
        "x = 'a' * 10 ** 9",
        "x = list(range(10 ** 9))",
        "x = f'{1:1000000000}'",
        "x = [[[0 for a in range(9999)] for b in range(9999)] for c in range(9999)]",
        "x = unknown",
        "x = {{_base_.nothing}}",
        "x = dict(",
    ],
)
def test_what_is_more_than_a_setting_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    file = tmp_path / "hostile.py"
    file.write_text(f"a = 1\n{line}\n")
    with pytest.raises(UserError, match=r"hostile\.py, line 2"):
        read_python_config(file)


def test_what_settings_do_compute(tmp_path: Path) -> None:
    file = tmp_path / "fine.py"
    file.write_text(
        "n = 2\na = [i * n for i in range(4) if i != 1]\nb = dict(x=1, **dict(y=2))\n"
        "b['z'] = 'LR='.lower() + f'{0.001:.0e}'\nc = (1, 2) if n > 5 else a[1:]\nn += 1\n"
    )
    assert read_python_config(file) == {
        "n": 3,
        "a": [0, 4, 6],
        "b": {"x": 1, "y": 2, "z": "lr=1e-03"},
        "c": [4, 6],
    }


def test_other_models_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.py"
    file.write_text("model = dict(keypoint_head=dict(type='TopdownHeatmapSimpleHead'))\n")
    with pytest.raises(UserError, match="TopdownHeatmapSimpleHead"):
        import_config(file)


def test_diff_names_the_settings_that_differ() -> None:
    command = ["config", "diff", "sdpose_s_v1", "maskedkd_v2", "--json"]
    result = CliRunner().invoke(cli, command, catch_exceptions=False)
    differences = json.loads(result.output)
    assert differences["optimizer_config.grad_clip.max_norm"] == [None, 1.0]
    assert "optimizer.lr" not in differences
