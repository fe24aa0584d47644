"""`sdpose config import` drops nothing silently: each setting is taken, built in or not supported.

The settings of real configurations are changed one by one, and what is known of mmpose's own rules
(paths, joints, epochs, iterations) is checked as a table.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sdpose.cli import cli
from sdpose.config import load_experiment
from sdpose.errors import UserError
from sdpose.tools.mmpose_import.direct import experiment_loader
from sdpose.tools.mmpose_import.python_file import read_python_config
from sdpose.tools.mmpose_import.report import NotSupportedError
from sdpose.tools.mmpose_import.translate import READ_BY_MMPOSE, translate
from sdpose.tools.mmpose_import.translation import Translation

ALL_CONFIGS = Path(__file__).parent / "mmpose"
CONFIGS = ALL_CONFIGS / "coco"
MASKED = CONFIGS / "sdpose_s_v1_maskedkd.py"

# What changes no result in mmpose either; all of it is listed all the same.
WITHOUT_EFFECT = re.compile(
    r"data\.(train|val|test)\.(pipeline\[\d+\]\.(keys|meta_keys)\b"
    r"|dataset_info\.(dataset_name|paper_info|skeleton_info|joint_weights"
    r"|keypoint_info\.\d+\.color))"
    r"|data\.train\.dataset_info\.sigmas"
    r"|data\.train\.data_cfg\.(use_gt|bbox|det_bbox|oks|vis|soft_nms|nms)"
    r"|lr_config\.warmup_"
)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(item, dict | list | tuple) and item:
            yield from leaves(item, (*path, key))
        else:
            yield (*path, key)


def changed(value: Any, path: tuple[Any, ...]) -> Any:
    """The value with another leaf of the same type at `path`."""
    if path:
        items = dict(value) if isinstance(value, dict) else list(value)
        items[path[0]] = changed(items[path[0]], path[1:])
        return tuple(items) if isinstance(value, tuple) else items
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value * 0.7 + 0.013
        case str():
            return f"{value}_other"
        case _:
            return {"other": 1}


def text_of(path: tuple[Any, ...]) -> str:
    text = ""
    for key, above in zip(path, (None, *path), strict=False):
        in_list = isinstance(key, int) and above != "keypoint_info"
        text += f"[{key}]" if in_list else f".{key}" * bool(text) or str(key)
    return text


def is_listed(path: str, lines: list[str]) -> bool:
    shown = (line.split(" = ")[0] for line in lines)
    return any(path == at or path.startswith((f"{at}.", f"{at}[")) for at in shown)


@pytest.mark.parametrize(
    "name",
    [
        *("coco/sdpose_s_v1_maskedkd", "coco/child", "coco/sdpose_b"),
        *("crowdpose/sdpose_s_v2", "mpii/sdpose_mpii", "own/forklift"),
    ],
)
def test_each_changed_setting_changes_the_experiment_or_is_listed_or_refused(name: str) -> None:
    config = read_python_config(ALL_CONFIGS / f"{name}.py")
    config = {k: v for k, v in config.items() if k in {*READ_BY_MMPOSE, "data_root", "exp_name"}}
    before = translate(config, "mine")
    silent, unlisted = [], []
    for path in leaves(config):
        text = text_of(path)
        lists = before.taken + before.built_in + before.unsupported
        if text not in ("data_root", "exp_name") and not is_listed(text, lists):
            unlisted.append(text)
        try:
            after = translate(changed(config, path), "mine")
        except UserError:
            continue
        kept = after.experiment != before.experiment or after.added != before.added
        if kept or after.unsupported != before.unsupported:
            continue
        if is_listed(text, after.unsupported):  # below it: a parameter of a loss that is lost
            continue
        # Colours lie in a section that is taken where the skeleton is no preset.
        if WITHOUT_EFFECT.match(text) and is_listed(text, after.built_in + after.taken):
            continue
        if any(line.startswith(f"{text} = ") for line in after.built_in):
            continue  # another value that is built in, too (gpu_collect, say)
        silent.append(text)
    assert silent == []
    assert unlisted == []


def test_nothing_is_said_to_be_both_taken_and_not_supported() -> None:
    result = translate(read_python_config(MASKED), "mine")
    unsupported = {line.split(" = ")[0] for line in result.unsupported}
    built_in = {line.split(" = ")[0] for line in result.built_in}
    taken = set(result.taken)
    assert not taken & unsupported
    assert not taken & built_in
    assert not built_in & unsupported


# ------------------------------------------------------------------------------- mmpose's own rules


def of(tmp_path: Path, lines: str, base: Path = MASKED) -> Translation:
    path = tmp_path / "mine.py"
    path.write_text(f"_base_ = {str(base)!r}\n{lines}\n", encoding="utf-8")
    return translate(read_python_config(path), "mine")


TRAIN = "data = dict(train={})"
REFUSED = {
    "joints of the head": (
        "model=dict(keypoint_head=dict(num_joints=14))",
        "num_joints = 14, but data.val has 17",
    ),
    "joints of the data": (
        "data=dict(val=dict(data_cfg=dict(num_joints=133)))",
        "= 133, but data.val has 17",
    ),
    "outputs in training": (
        "data=dict(train=dict(data_cfg=dict(num_output_channels=14)))",
        r"data\.train\.data_cfg\.num_output_channels = 14",
    ),
    "CrowdPose in training": (
        "data=dict(train=dict(type='TopDownCrowdPoseDataset', dataset_info=None))",
        "differ in keypoints: only data.train has top_head, neck, only data.val has nose",
    ),
    "a list of datasets": ("data=dict(train=[dict(), dict()])", "list of 2 datasets.*merge"),
    "a repeated dataset": (
        "data=dict(train=dict(_delete_=True, type='RepeatDataset', times=3, dataset=dict()))",
        "RepeatDataset.*total_epochs x times",
    ),
    "no training set": ("data=dict(train=None)", r"data\.train\.type is nothing"),
    "no annotations": ("data=dict(train=dict(ann_file=''))", "expected the path of one annotation"),
    "annotations of two files": (
        "data=dict(val=dict(ann_file=['a.json', 'b.json']))",
        "expected the path of one annotation",
    ),
    "no epochs": ("total_epochs = None", "total_epochs is not set"),
    "mmpose 1.x": ("optim_wrapper = dict(optimizer=dict(lr=1))", "mmpose 1.x"),
    "a base of mmpose 1.x": ("_base_ = ['mmpose::_base_/default_runtime.py']", "mmpose 1.x"),
    "lazy bases of mmpose 1.x": ("from mmengine.config import read_base", "mmpose 1.x"),
    "no model": ("model = None", "keypoint_head.type is nothing"),
    "no head": ("model = dict(keypoint_head=None)", "keypoint_head.type is nothing"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_another_experiment_is_refused(name: str, tmp_path: Path) -> None:
    lines, message = REFUSED[name]
    if "mmpose 1.x" in name:  # such a file inherits nothing of 0.x
        (tmp_path / "newer.py").write_text(lines, encoding="utf-8")
        with pytest.raises(UserError, match=message):
            translate(read_python_config(tmp_path / "newer.py"), "newer")
        return
    # Lists and None replace what is inherited; mmcv merges dictionaries only.
    with pytest.raises(UserError, match=f"(?s){message}"):
        of(tmp_path, lines)


# Lines of a configuration, then what the experiment has and what is listed.
RULES: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "runner.max_epochs is not read": (
        "runner = dict(type='EpochBasedRunner', max_epochs=50)",
        {"total_epochs": 400},
        ["runner.max_epochs = 50  (mmpose 0.x trains total_epochs = 400)"],
    ),
    "milestones in iterations": (
        "lr_config = dict(by_epoch=False, step=[100000, 150000])",
        {"lr_config.step": None},
        ["lr_config.by_epoch = False", "lr_config.step = [100000, 150000]"],
    ),
    "a warm-up in epochs": (
        "lr_config = dict(warmup_by_epoch=True, warmup_iters=5)",
        {"lr_config.warmup": "linear", "lr_config.warmup_iters": None},
        ["lr_config.warmup_iters = 5", "lr_config.warmup_by_epoch = True"],
    ),
    "cosine by iteration": (
        "lr_config = dict(_delete_=True, policy='CosineAnnealing', by_epoch=False, min_lr=0)",
        {"lr_config.policy": "cosine"},
        [],
    ),
    "a constant rate": (
        "lr_config = dict(_delete_=True, policy='fixed')",
        {"lr_config.step": (), "lr_config.warmup": None},
        [],
    ),
    "a loss without weight": (
        "model = dict(keypoint_head=dict(loss_vis_token_dist=dict(_delete_=True, "
        "type='TokenDistilLoss', dist_type='L2')))",
        {"model.keypoint_head.loss_vis_token_dist.loss_weight": 1.0},
        [],
    ),
    "boxes beside the data": (
        "data = dict(val=dict(data_cfg=dict(bbox_file='/srv/boxes/det.json')))",
        {"data_cfg.bbox_file": "/srv/boxes/det.json", "data_root": "/dockerdata/coco"},
        ["data.test.data_cfg.bbox_file = "],
    ),
    "test is another set": (
        "data = dict(test=dict(data_cfg=dict(use_gt_bbox=True, det_bbox_thr=0.3)))",
        {"data_cfg.use_gt_bbox": False},
        ["data.test.data_cfg.use_gt_bbox = True", "data.test.data_cfg.det_bbox_thr = 0.3"],
    ),
    "other sigmas": (
        "data = dict(val=dict(dataset_info=dict(sigmas=[0.05] * 17)), "
        "test=dict(dataset_info=dict(sigmas=[0.05] * 17)))",
        {"skeleton.sigmas": [0.05] * 17},
        [],
    ),
    "weights of joints": (
        "data = dict(train=dict(data_cfg=dict(use_different_joint_weights=True)))",
        {},
        ["data.train.data_cfg.use_different_joint_weights = True"],
    ),
    "sizes of training alone": (
        "data = dict(train=dict(data_cfg=dict(image_size=[288, 384])))",
        {},
        ["data.train.data_cfg.image_size = [288, 384]"],
    ),
    "a step twice": (
        "data = dict(train=dict(pipeline=[dict(type='TopDownRandomFlip', flip_prob=p) "
        "for p in (0.1, 0.9)]))",
        {"train_pipeline.flip_prob": 0.1},
        ["data.train.pipeline[1] = ", "data.train.pipeline: no NormalizeTensor"],
    ),
    "ground-truth boxes": (
        "data = dict(val=dict(data_cfg=dict(use_gt_bbox=True, bbox_file='')))",
        {"data_cfg.use_gt_bbox": True},
        ["data.test.data_cfg.use_gt_bbox = False", "data.test.data_cfg.bbox_file = "],
    ),
    "another loss beside the three": (
        "model = dict(keypoint_head=dict(loss_attn_dist=dict(type='L1Loss', loss_weight=1e-4)))",
        {},
        ["model.keypoint_head.loss_attn_dist = "],
    ),
    "a number for a section": (
        "optimizer_config = dict(grad_clip=5)",
        {},
        ["optimizer_config.grad_clip = 5"],
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_settings_mean_what_they_meant_in_mmpose(name: str, tmp_path: Path) -> None:
    lines, kept, listed = RULES[name]
    before, result = of(tmp_path, ""), of(tmp_path, lines)
    for key, expected in kept.items():
        value: Any = result.experiment
        for part in key.split("."):
            value = value.get(part)
        assert value == expected, key
    new = [line for line in result.unsupported if line not in before.unsupported]
    for start in listed:
        assert any(line.startswith(start) for line in new), (start, new)
    assert len(new) >= len(listed)
    assert listed or new == []


ROOTED = """
data = dict(
    train=dict(ann_file="{train}", img_prefix="{images}"),
    val=dict(ann_file="{val}", img_prefix="{images}", data_cfg=dict(bbox_file="{boxes}")),
)
"""


@pytest.mark.parametrize(
    ("root", "train", "val", "images", "boxes", "expected"),
    [
        # data_root, training annotations, images, boxes as they are written
        ("None", "d/w/a/t.json", "d/w/a/v.json", "d/w/i/", "d/w/b.json", "d/w a/t.json i b.json"),
        (
            "'d/w/'",
            "d/w//a/t.json",
            "d/w/a/v.json",
            "d/w/i",
            "d/b.json",
            "d/w a/t.json i ../b.json",
        ),
        ("'x'", "d/a/t.json", "d/a/v.json", "d/i", "d/b.json", "d a/t.json i b.json"),
        ("None", "t.json", "v.json", "i", "b.json", ". t.json i b.json"),
        ("'/d'", "/d/t.json", "/d/v.json", "/d", "/e/b.json", "/d t.json . /e/b.json"),
        ("'/d'", "/d/t.json", "/d/v.json", "/d/i", "b.json", "/d t.json i {cwd}/b.json"),
        ("'/'", "/d/t.json", "/d/v.json", "/d/i", "/b.json", "/ d/t.json d/i b.json"),
        ("None", "d/t.json", "/d/v.json", "d/i", "d/b.json", ". d/t.json d/i d/b.json"),
        ("None", "/a/t.json", "/a/v.json", "/i", "/b/b.json", "/i /a/t.json . /b/b.json"),
    ],
)
def test_paths_are_relative_to_the_working_directory_as_in_mmpose(
    root: str,
    train: str,
    val: str,
    images: str,
    boxes: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = ROOTED.format(train=train, val=val, images=images, boxes=boxes)
    experiment = of(tmp_path, f"data_root = {root}\n{lines}").experiment
    written = experiment["data"]["train"]
    found = [
        *(experiment["data_root"], written["ann_file"], written["img_prefix"]),
        experiment["data_cfg"]["bbox_file"],
    ]
    assert " ".join(found) == expected.format(cwd=tmp_path)
    folder = tmp_path / found[0]
    assert (folder / found[1]).resolve() == (tmp_path / train).resolve()
    assert (folder / found[3]).resolve() == (tmp_path / boxes).resolve()


# -------------------------------------------------------------------------------------- the command


@pytest.mark.slow
def test_a_lost_loss_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    command = ["config", "import", str(MASKED), "-o", str(out)]
    refused = CliRunner().invoke(cli, command)
    assert isinstance(refused.exception, NotSupportedError)
    assert refused.exception.exit_code == 3
    message = str(refused.exception)
    assert "SimpleConsistencyLoss" in message
    assert "--allow-unsupported" in message
    assert "persistent_workers" in refused.output  # the rest of the report, too
    assert not out.exists()
    allowed = CliRunner().invoke(cli, [*command, "--allow-unsupported"], catch_exceptions=False)
    assert allowed.exit_code == 0
    assert out.exists()

    kept = tmp_path / "kept.py"
    kept.write_text(f"_base_ = {str(CONFIGS / 'child.py')!r}\nexp_name = 'kept'\n")
    assert CliRunner().invoke(cli, ["config", "import", str(kept)]).exit_code == 0
    strict = CliRunner().invoke(cli, ["config", "import", str(kept), "--strict", "--json"])
    assert isinstance(strict.exception, NotSupportedError)
    report = json.loads(strict.stdout)
    assert report["experiment"] is None
    assert report["lost_losses"] == []
    assert report["unsupported"]


def test_exp_name_and_mlflow(tmp_path: Path) -> None:
    path = tmp_path / "창고 v1 (복사본).py"
    # utf-8-sig: as Windows' Notepad saves it
    path.write_text(f"_base_ = {str(CONFIGS / 'child.py')!r}\nexp_name = '창고'\n", "utf-8-sig")
    refused = CliRunner().invoke(cli, ["config", "import", str(path)])
    assert isinstance(refused.exception, UserError)
    assert "--exp-name NAME" in str(refused.exception)
    load = experiment_loader(str(path))
    with pytest.raises(UserError, match="--set exp_name=NAME"):
        load()
    assert load(["exp_name=warehouse"]).exp_name == "warehouse"
    out = tmp_path / "mine.yaml"
    command = ["config", "import", str(path), "--exp-name", "warehouse", "-o", str(out)]
    result = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert "MlflowLoggerHook" in result.stderr
    experiment = load_experiment(out)
    assert experiment.exp_name == "warehouse"
    assert experiment.work_dir == "work_dirs/warehouse"
    assert [hook.type for hook in experiment.log_config.hooks] == [
        "TextLoggerHook",
        "MlflowLoggerHook",
    ]
