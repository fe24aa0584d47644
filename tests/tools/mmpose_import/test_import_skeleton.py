"""`skeleton` of an imported experiment: `dataset_info`, or the type of the dataset, as mmpose has
it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sdpose.config import load_experiment
from sdpose.config.keypoint_names import UNIFORM_SIGMA
from sdpose.config.schema.skeleton import preset
from sdpose.errors import UserError
from sdpose.tools.mmpose_import import import_config
from sdpose.tools.mmpose_import.python_file import read_python_config
from sdpose.tools.mmpose_import.translate import translate
from sdpose.tools.mmpose_import.translation import Translation

CONFIGS = Path(__file__).parent / "mmpose"
CROWDPOSE, MPII = CONFIGS / "crowdpose/sdpose_s_v2.py", CONFIGS / "mpii/sdpose_mpii.py"
FORKLIFT = CONFIGS / "own/forklift.py"


def of(tmp_path: Path, lines: str, base: Path = FORKLIFT) -> Translation:
    path = tmp_path / "mine.py"
    path.write_text(f"_base_ = {str(base)!r}\n{lines}\n", encoding="utf-8")
    return translate(read_python_config(path), "mine")


def both(**changes: Any) -> str:
    """Lines that change `dataset_info` of training and evaluation."""
    info = f"dict(dataset_info=dict({', '.join(f'{k}={v}' for k, v in changes.items())}))"
    return f"data = dict(train={info}, val={info}, test={info})"


def test_crowdpose_becomes_the_preset(tmp_path: Path) -> None:
    imported = import_config(CROWDPOSE)
    assert imported.experiment.skeleton == preset("crowdpose")
    assert "\nskeleton: crowdpose\n" in imported.text
    assert imported.report.unsupported == []
    assert imported.experiment.data_root == "/dockerdata/crowdpose"
    assert imported.experiment.data.val.ann_file == "annotations/mmpose_crowdpose_test.json"
    assert imported.experiment.data_cfg.bbox_file == "annotations/det_for_crowd_test_0.1_0.5.json"
    path = tmp_path / "theirs.yaml"
    path.write_text(imported.text, encoding="utf-8")
    assert load_experiment(path).skeleton == preset("crowdpose")


def test_mpii_by_the_type_of_the_dataset() -> None:
    imported = import_config(MPII)
    experiment = imported.experiment
    assert experiment.skeleton == preset("mpii")
    assert "\nskeleton: mpii\n" in imported.text
    assert experiment.data_cfg.use_gt_bbox is True
    assert experiment.evaluation.save_best == "AP"
    listed = [line.split(" = ")[0] for line in imported.report.unsupported]
    assert listed == ["data.train.type", "data.val.type", "evaluation.key_indicator"]
    assert "convert them to COCO's format" in imported.report.unsupported[0]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TopDownCocoDataset", "coco"),
        ("TopDownCocoWholeBodyDataset", "coco_wholebody"),
        ("TopDownCrowdPoseDataset", "crowdpose"),
        ("AnimalAP10KDataset", "ap10k"),
        ("OneHand10KDataset", "hand21"),
    ],
)
def test_types_with_keypoints_of_their_own(kind: str, name: str, tmp_path: Path) -> None:
    number = preset(name).num_keypoints
    channels = f"data_cfg=dict(num_joints={number}, num_output_channels={number}, "
    channels += f"dataset_channel=[list(range({number}))], inference_channel=list(range({number})))"
    each = f"dict(type='{kind}', dataset_info=None, {channels})"
    lines = f"data = dict(train={each}, val={each}, test={each})\n"
    result = of(tmp_path, f"{lines}model = dict(keypoint_head=dict(num_joints={number}))")
    assert result.experiment["skeleton"] == name
    assert result.unsupported == []


@pytest.mark.parametrize("stated", ["", "data_cfg=dict(use_gt_bbox=False), "])
def test_datasets_without_detections_are_evaluated_on_their_boxes(
    stated: str, tmp_path: Path
) -> None:
    lines = f"data = dict(val=dict({stated}type='OneHand10KDataset'))"
    result = of(tmp_path, lines)
    assert result.experiment["data_cfg"]["use_gt_bbox"] is True
    assert any(line.startswith("data_cfg.use_gt_bbox = True") for line in result.added)


def test_own_keypoints_become_a_mapping(tmp_path: Path) -> None:
    imported = import_config(FORKLIFT)
    skeleton = imported.experiment.keypoints
    assert skeleton.keypoints == ("mast", "fork_right", "fork_left", "wheel_a", "wheel_b")
    # The name says which one is left; wheels have no sides, so that the first comes first.
    assert skeleton.flip_pairs == (("fork_left", "fork_right"), ("wheel_a", "wheel_b"))
    assert skeleton.sigmas == (0.05, 0.04, 0.04, 0.06, 0.06)
    assert skeleton.limbs == (("mast", "fork_left"), ("mast", "fork_right"))
    assert skeleton.upper_body == ("mast",)
    listed = [line.split(" = ")[0] for line in imported.report.unsupported]
    assert listed == ["data.train.type", "data.val.type"]
    path = tmp_path / "theirs.yaml"
    path.write_text(imported.text, encoding="utf-8")
    assert load_experiment(path).skeleton == skeleton


@pytest.mark.parametrize("sigmas", ["[]", "None"])
def test_without_sigmas_they_follow_from_the_names(sigmas: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"_base_ = {str(FORKLIFT)!r}\nexp_name = 'mine'\n{both(sigmas=sigmas)}\n")
    imported = import_config(path)
    assert imported.experiment.keypoints.sigmas == (UNIFORM_SIGMA,) * 5
    assert any("comparable" in line for line in imported.report.added)


CHANGES: dict[str, tuple[str, Path, Any]] = {
    "another order": (
        both(
            keypoint_info="{0: dict(name='neck', swap=''), 13: dict(name='left_shoulder', "
            "swap='right_shoulder'), 1: dict(swap='left_shoulder')}"
        ),
        CROWDPOSE,
        None,
    ),
    "another half": (both(keypoint_info="{13: dict(type='lower')}"), CROWDPOSE, None),
    "other sigmas of evaluation": (
        "data = dict(val=dict(dataset_info=dict(sigmas=[0.05] * 14)))",
        CROWDPOSE,
        None,
    ),
    "other limbs": (
        both(skeleton_info="{0: dict(link=('neck', 'left_knee'))}"),
        CROWDPOSE,
        "crowdpose",
    ),
    "sigmas of training alone": (
        "data = dict(train=dict(dataset_info=dict(sigmas=[0.05] * 14)))",
        CROWDPOSE,
        "crowdpose",
    ),
    "no sigmas": (both(sigmas="[]"), CROWDPOSE, "crowdpose"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_preset_is_named_where_it_trains_and_evaluates_the_same(
    name: str, tmp_path: Path
) -> None:
    lines, base, expected = CHANGES[name]
    skeleton = of(tmp_path, lines, base).experiment["skeleton"]
    if expected:
        assert skeleton == expected
    else:
        assert len(skeleton["keypoints"]) == 14
        assert skeleton["sigmas"] == ([0.05] * 14 if "sigmas" in name else skeleton["sigmas"])


REFUSED = {
    "joints of the head": (
        "model = dict(keypoint_head=dict(num_joints=17))",
        r"num_joints = 17, but data\.val has 5 keypoints",
    ),
    "joints of the data": (
        "data = dict(train=dict(data_cfg=dict(num_joints=17)))",
        r"data\.train\.data_cfg\.num_joints = 17, but data\.val has 5 keypoints",
    ),
    "a type that says nothing": (
        "data = dict(val=dict(dataset_info=None))",
        r"data\.val\.type is 'TopDownForkliftDataset' without dataset_info.*TopDownMpiiDataset",
    ),
    "train and validation": (
        "data = dict(train=dict(dataset_info=dict(keypoint_info={0: dict(name='roof')})))",
        r"differ in keypoints: only data\.train has roof, only data\.val has mast",
    ),
    "train and validation in another order": (
        "data = dict(train=dict(dataset_info=dict(keypoint_info={0: dict(name='wheel_a', "
        "swap='wheel_b'), 3: dict(name='mast', swap='', type='upper'), 4: dict(swap='wheel_a'), "
        "})))",
        "differ in keypoints: the same in another order",
    ),
    "halves of train and validation": (
        "data = dict(train=dict(dataset_info=dict(keypoint_info={1: dict(type='upper')})))",
        "differ in upper_body: only data.train has fork_right",
    ),
    "a pair of three": (
        both(keypoint_info="{0: dict(swap='wheel_a')}"),
        r"keypoint_info\[0\]\.swap is 'wheel_a'.*whose swap is 'mast'",
    ),
    "an unknown partner": (both(keypoint_info="{0: dict(swap='tail')}"), r"swap is 'tail'"),
    "a name twice": (both(keypoint_info="{0: dict(name='wheel_a')}"), r"\[3\]\.name is 'wheel_a'"),
    "no name": (both(keypoint_info="{0: dict(name=None)}"), r"\[0\]\.name is nothing"),
    "a gap": (both(keypoint_info="{7: dict(name='tail')}"), "has 6 joints.*0 to 5"),
    "names of numbers": (both(keypoint_info="{'5': dict(name='tail')}"), "has 6 joints"),
    "too few sigmas": (both(sigmas="[0.1]"), "sigmas has 1 values, keypoints 5 names"),
    "a limb to nowhere": (
        both(skeleton_info="{0: dict(link=('mast', 'tail'))}"),
        "limbs names 'tail'",
    ),
    "half a limb": (both(skeleton_info="{0: dict(link=('mast',))}"), "dataset_info"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_contradictions_are_refused_with_both_sides(name: str, tmp_path: Path) -> None:
    lines, message = REFUSED[name]
    path = tmp_path / "mine.py"
    path.write_text(f"_base_ = {str(FORKLIFT)!r}\nexp_name = 'mine'\n{lines}\n", encoding="utf-8")
    with pytest.raises(UserError, match=f"(?s){message}"):
        import_config(path)
