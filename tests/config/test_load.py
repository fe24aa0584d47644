"""An experiment is a few lines; everything wrong with them is said at once, with the way out."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from sdpose.config import (
    dump_experiment,
    experiment_digest,
    experiments_dir,
    load_experiment,
    load_with_origins,
    parse_experiment,
)
from sdpose.errors import UserError

EXPERIMENTS = sorted(path.stem for path in experiments_dir().glob("*.yaml"))


def write(folder: Path, text: str, name: str = "mine") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_travels_is_what_was_resolved(name: str) -> None:
    experiment = load_experiment(name)
    assert parse_experiment(dump_experiment(experiment)) == experiment


def test_the_experiments_that_users_start_from_exist() -> None:
    expected = {"sdpose_t", "sdpose_s_v1", "sdpose_s_v2", "sdpose_b", "maskedkd_v2", "quickstart"}
    assert expected <= set(EXPERIMENTS)


def test_the_digest_is_the_sha256_of_what_is_shown() -> None:
    command = [sys.executable, "-m", "sdpose", "config", "show", "maskedkd_v2"]
    shown = subprocess.run(command, capture_output=True, check=True).stdout
    assert hashlib.sha256(shown).hexdigest() == experiment_digest(load_experiment("maskedkd_v2"))


def test_masked_distillation_as_the_users_run_it() -> None:
    experiment = load_experiment("maskedkd_v2")
    assert experiment.exp_name == "sdpose_s_v1_stemnet_coco_256x192_maskedkd_v2"
    assert experiment.work_dir == f"work_dirs/{experiment.exp_name}"
    for loss in (
        experiment.model.keypoint_head.loss_vis_token_dist,
        experiment.model.keypoint_head.loss_kpt_token_dist,
    ):
        assert loss is not None
        assert loss.type == "MaskedTokenDistilLoss"
        assert (loss.loss_weight, loss.mask_ratio, loss.mask_strategy) == (1e-5, 0.3, "random")
    assert experiment.optimizer_config.grad_clip is not None
    assert experiment.optimizer_config.grad_clip.max_norm == 1.0


def test_base_then_file_then_set_then_option(tmp_path: Path) -> None:
    write(tmp_path, "exp_name: a\noptimizer: {type: SGD, lr: 1}\nseed: 1\ndata_root: x", "base")
    path = write(tmp_path, "base: base\nexp_name: b\noptimizer: {lr: 2}\nseed: 2")
    overrides = ["optimizer.lr=1e-5", "seed=3", "data.train.ann_file=subset.json"]
    experiment = load_experiment(path, overrides, data_root="y: z")
    assert experiment.exp_name == "b"
    assert experiment.optimizer.type == "SGD"
    assert experiment.optimizer.lr == 1e-5
    assert experiment.seed == 3
    assert experiment.data_root == "y: z"
    assert experiment.data.train.model_dump() == {
        "ann_file": "subset.json",
        "img_prefix": "train2017",
    }


def test_sizes_follow_the_image(tmp_path: Path) -> None:
    path = write(tmp_path, "exp_name: a\ndata_cfg: {image_size: [96, 128], heatmap_size: [24, 32]}")
    head = load_experiment(path).model.keypoint_head.tokenpose_cfg
    assert head.feature_size == (32, 24)
    assert head.heatmap_size == (32, 24)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("exp_name: a\ndata: {sample_per_gpu: 4}", ["data.sample_per_gpu", "'samples_per_gpu'"]),
        ("exp_name: a\nevaluatoin: {}", ["evaluatoin", "'evaluation'"]),
        (
            "exp_name: a\nmodel: {keypoint_head: {loss_vis_token_dist: {mask_rat: 1}}}",
            ["model.keypoint_head.loss_vis_token_dist.mask_rat", "'mask_ratio'"],
        ),
        ("exp_name: a\noptimizer: {lr: -1}", ["optimizer.lr", "-1", "greater than 0"]),
        ("exp_name: a\noptimizer: {type: adam}", ["optimizer.type", "'Adam'", "AdamW, SGD"]),
        ("exp_name: a\ntotal_epochs: 1.5", ["total_epochs", "1.5", "integer"]),
        ("exp_name: a\nseed: true", ["seed", "True", "integer"]),
        ("exp_name: a\ndata: 3", ["data", "3", "keys"]),
        ("exp_name: a/b", ["exp_name", "a/b", "letters"]),
        ("seed: 1", ["exp_name", "required"]),
        ("exp_name: a\ndata_cfg: {image_size: [190, 256]}", ["image_size", "divisible by 4"]),
        (
            "exp_name: a\nmodel: {keypoint_head: {loss_vis_token_dist: {mask_ratio: 0.3}}}",
            ["mask_ratio", "MaskedTokenDistilLoss"],
        ),
        ("exp_name: a\nexp_name: b", ["exp_name", "twice", "line 2"]),
        (
            "exp_name: a\nload_from: s3://me:hunter2@bucket/best.pth",
            ["load_from: s3://***@bucket/best.pth", "environment"],
        ),
        ("exp_name: [", ["not valid YAML"]),
        ("just text", ["expected 'key: value' lines"]),
        ("base: nowhere\nexp_name: a", ["unknown experiment 'nowhere'"]),
    ],
)
def test_bad_input_is_named_with_the_way_out(tmp_path: Path, text: str, said: list[str]) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError) as error:
        load_experiment(path)
    for words in said:
        assert words in str(error.value)


def test_all_problems_at_once_each_with_its_origin(tmp_path: Path) -> None:
    path = write(tmp_path, "exp_name: a\noptimizer: {lr: 0}")
    with pytest.raises(UserError) as error:
        load_experiment(path, ["data.workers_per_gpu=-1", "evaluation.metric=AP"])
    message = str(error.value)
    assert "3 problems" in message
    assert "data.workers_per_gpu (from --set data.workers_per_gpu=-1)" in message
    assert "optimizer.lr: 0" in message


def test_bases_have_bases(tmp_path: Path) -> None:
    write(tmp_path, "exp_name: a\nseed: 1\noptimizer: {lr: 1, weight_decay: 0.5}", "one")
    write(tmp_path, "base: one\nexp_name: b\noptimizer: {lr: 2}", "two")
    experiment = load_experiment(write(tmp_path, "base: two\nexp_name: c\ndata_root: d"))
    assert (experiment.exp_name, experiment.seed, experiment.data_root) == ("c", 1, "d")
    assert (experiment.optimizer.lr, experiment.optimizer.weight_decay) == (2, 0.5)


def test_a_shipped_experiment_is_changed_under_its_own_name(tmp_path: Path) -> None:
    path = write(tmp_path, "base: maskedkd_v2\nseed: 7", "maskedkd_v2")
    assert load_experiment(path).seed == 7


def test_bases_that_never_end_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "base: three\nexp_name: a", "two")
    write(tmp_path, "base: two\nexp_name: b", "three")
    with pytest.raises(UserError, match="circle: mine -> two -> three -> two"):
        load_experiment(write(tmp_path, "base: two\nexp_name: c", "mine"))
    write(tmp_path, "exp_name: a", "b0")
    for number in range(1, 23):
        write(tmp_path, f"base: b{number - 1}\nexp_name: a", f"b{number}")
    assert load_experiment(tmp_path / "b20.yaml").exp_name == "a"
    with pytest.raises(UserError, match="more than 20 bases: b22 -> b21 -> "):
        load_experiment(tmp_path / "b22.yaml")


def test_a_problem_of_a_base_names_its_file(tmp_path: Path) -> None:
    base = write(tmp_path, "exp_name: a\noptimizer: {lr: 0}", "base")
    path = write(tmp_path, "base: base\nexp_name: b\noptimizer: {weight_decay: -1}")
    with pytest.raises(UserError) as error:
        load_experiment(path)
    assert f"optimizer.lr (from {base}): 0: " in str(error.value)
    assert "optimizer.weight_decay: -1: " in str(error.value)


def test_origin_of_each_value(tmp_path: Path) -> None:
    base = write(tmp_path, "exp_name: a\nseed: 1\noptimizer: {lr: 1, weight_decay: 0.5}", "base")
    path = write(tmp_path, "base: base\nexp_name: b\noptimizer: {lr: 2}")
    _, origins = load_with_origins(path, ["data.samples_per_gpu=8"], data_root="d")
    assert {
        key: origins[key]
        for key in (
            *("exp_name", "seed", "optimizer.lr", "optimizer.weight_decay", "optimizer.type"),
            *("data.samples_per_gpu", "data_root"),
        )
    } == {
        "exp_name": str(path),
        "seed": str(base),
        "optimizer.lr": str(path),
        "optimizer.weight_decay": str(base),
        "optimizer.type": "default",
        "data.samples_per_gpu": "--set data.samples_per_gpu=8",
        "data_root": "--data-root d",
    }


@pytest.mark.parametrize("override", ["optimizer.lr", "=1", "a..b=1", "seed.x=1", "seed=[1"])
def test_a_malformed_set_is_shown_back(override: str) -> None:
    with pytest.raises(UserError, match="--set"):
        load_experiment("sdpose_t", [override])


def test_an_unknown_name_gets_the_nearest_names() -> None:
    command = [sys.executable, "-m", "sdpose", "config", "show", "maskedkd_v3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "'maskedkd_v2'" in done.stderr
    assert "Traceback" not in done.stderr
