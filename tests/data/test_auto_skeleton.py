"""`skeleton: auto`: read from the training file, and refused where that does not say it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdpose.config import Experiment, parse_experiment
from sdpose.config.keypoint_names import UNIFORM_SIGMA
from sdpose.config.schema import COCO, preset
from sdpose.data import auto_skeleton
from sdpose.data.auto_skeleton import read_draft, with_skeleton
from sdpose.data.coco import load_annotations
from sdpose.errors import UserError
from sdpose.prepare.dataset import prepare_coco

HEAD = ["nose", "L_Eye", "R_Eye", "beak", "comb"]
LIMBS = [[1, 2], [1, 3], [1, 4]]
NO_FLIP = {"train_pipeline": {"flip_prob": 0}, "model": {"test_cfg": {"flip_test": False}}}


@pytest.fixture(autouse=True)
def said_nothing_yet() -> None:
    auto_skeleton._once.cache_clear()


def category(names: Any = HEAD, **more: Any) -> dict[str, Any]:
    limbs = [limb for limb in LIMBS if max(limb) <= len(names)]
    return {"id": 1, "name": "hen", "keypoints": names, "skeleton": limbs, **more}


def coco_file(*categories: dict[str, Any], count: int | None = None) -> dict[str, Any]:
    """One annotation of each category with keypoints, `count` of them."""
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 80}],
        "annotations": [
            {
                "id": 10 + number,
                "image_id": 1,
                "category_id": each["id"],
                "bbox": [10, 20, 30, 40],
                "area": 500,
                "iscrowd": 0,
                "keypoints": [20, 30, 2] * (len(each.get("keypoints", [])) or 5)
                if count is None
                else [20, 30, 2] * count,
            }
            for number, each in enumerate(categories)
        ],
        "categories": list(categories),
    }


Make = Callable[..., Experiment]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """make(train file, **keys of the experiment): an experiment with `skeleton: auto`."""

    def build(train: Any, val: Any = None, **keys: Any) -> Experiment:
        for name, document in (("train", train), ("val", val)):
            if document is not None:
                (tmp_path / f"{name}.json").write_text(json.dumps(document))
        data = {name: {"ann_file": f"{name}.json", "img_prefix": name} for name in ("train", "val")}
        given = {"exp_name": "a", "skeleton": "auto", "data_root": str(tmp_path), "data": data}
        return parse_experiment(given | keys)

    return build


def refusal(experiment: Experiment) -> str:
    with pytest.raises(UserError) as error:
        with_skeleton(experiment)
    return str(error.value).replace(f"{experiment.data_root}/", "")


def test_names_and_limbs_are_the_categorys(make: Make) -> None:
    experiment = with_skeleton(make(coco_file(category())))
    skeleton = experiment.keypoints
    assert skeleton.keypoints == tuple(HEAD)
    assert skeleton.flip_pairs == (("L_Eye", "R_Eye"),)
    assert skeleton.limbs == (("nose", "L_Eye"), ("nose", "R_Eye"), ("nose", "beak"))
    assert skeleton.sigmas == (0.026, 0.025, 0.025, UNIFORM_SIGMA, UNIFORM_SIGMA)
    # A crop to half of five keypoints never happens: num_joints_half_body is 8.
    assert skeleton.upper_body == ()
    assert with_skeleton(experiment) == experiment


def test_a_file_with_cocos_names_has_cocos_skeleton(make: Make) -> None:
    index = {name: number for number, name in enumerate(COCO.keypoints, start=1)}
    limbs = [[index[a], index[b]] for a, b in COCO.limbs]
    document = coco_file(category(list(COCO.keypoints), name="person", skeleton=limbs))
    assert with_skeleton(make(document)).keypoints == COCO


def test_the_annotations_are_read_with_it(make: Make, tmp_path: Path) -> None:
    others = {"id": 2, "name": "grain"}
    experiment = with_skeleton(make(coco_file(category(), others)))
    annotations = load_annotations(tmp_path / "train.json", experiment.keypoints)
    assert annotations.keypoints.shape == (1, 5, 3)
    assert annotations.person_category["name"] == "hen"


def test_other_skeletons_are_not_read_from_a_file(make: Make) -> None:
    experiment = make(None, skeleton="mpii")
    assert with_skeleton(experiment) is experiment


def test_what_was_read_and_sigmas_of_no_dataset_are_said_once(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = make(coco_file(category()))
    with_skeleton(with_skeleton(experiment))
    with_skeleton(experiment)
    where = Path(experiment.data_root) / "train.json"
    assert capsys.readouterr().err.splitlines() == [
        f"skeleton: auto: 5 keypoints of category 'hen' (id 1) in {where}; flip pairs: 1, "
        "limbs: 3, upper half: 0 keypoints",
        "warning: skeleton: 2 of 5 keypoints are not COCO's and have the sigma 0.05 (beak, comb): "
        "AP is comparable within this dataset only; skeleton.sigmas sets others",
    ]
    with_skeleton(make(None, skeleton="hand21"))
    with_skeleton(make(None, skeleton={"keypoints": ["beak"], "sigmas": [0.03]}))
    assert capsys.readouterr().err == ""


# ---------------------------------------------------------------------------------- refusals


def test_a_side_without_a_partner_is_refused_with_the_yaml(make: Make) -> None:
    names = ["nose", "L_Eye", "R_Eye", "left_wing"]
    document = coco_file(category(names))
    text = """\
skeleton: auto: category 'hen' (id 1) in train.json does not say all that the training needs:
  images are mirrored, and these names say left or right, but have no partner: left_wing
add to the experiment, with the lines below `# ?` completed:
skeleton:
  # of category 'hen' (id 1) in train.json
  keypoints: [nose, L_Eye, R_Eye, left_wing]
  # [left, right]; from the names
  # ? no partner: left_wing
  flip_pairs:
  - [L_Eye, R_Eye]
  # COCO's, by name; 0.05, of no dataset: left_wing
  sigmas: [0.026, 0.025, 0.025, 0.05]
  # of the category's skeleton
  limbs:
  - [nose, L_Eye]
  - [nose, R_Eye]
  - [nose, left_wing]
  # from the names
  upper_body: [nose, L_Eye, R_Eye, left_wing]
or, without mirrored images:
train_pipeline.flip_prob: 0
model.test_cfg.flip_test: false"""
    assert refusal(make(document)) == text
    # Each of the remedies works as it is printed.
    yaml = text[text.index("skeleton:\n") : text.index("or, without")]
    given = parse_experiment(f"exp_name: a\n{yaml}")
    assert given.keypoints.keypoints == tuple(names)
    assert with_skeleton(make(document, **NO_FLIP)).keypoints.num_keypoints == 4


@pytest.mark.parametrize(
    "half", [{"train_pipeline": {"flip_prob": 0}}, {"model": {"test_cfg": {"flip_test": False}}}]
)
def test_flipping_in_training_or_in_the_test_is_flipping(make: Make, half: Any) -> None:
    document = coco_file(category(["nose", "left_wing", "tip"]))
    assert "left_wing" in refusal(make(document, **half))


def test_numbers_do_not_say_left_and_right(make: Make) -> None:
    document = coco_file(category([1, 2, 3, 4, 5]))
    message = refusal(make(document))
    assert "images are mirrored, and numbers do not say which keypoints are left" in message
    assert (
        "  # ? [left, right], ...: numbers do not say it; [] for none\n  flip_pairs: []" in message
    )
    assert with_skeleton(make(document, **NO_FLIP)).keypoints.keypoints == ("1", "2", "3", "4", "5")


def test_half_bodies_need_halves(make: Make) -> None:
    names = [*HEAD, "hook", "tail", "left_wing", "right_wing"]
    document = coco_file(category(names))
    message = refusal(make(document))
    expected = (
        "samples are cut to half a body, and these names do not say which half they are of: "
        "comb, hook"
    )
    assert expected in message
    assert (
        "  # ? upper half or lower: comb, hook\n  upper_body: [nose, L_Eye, R_Eye, beak" in message
    )
    assert message.endswith("or, without half bodies:\ntrain_pipeline.prob_half_body: 0")
    for cfg in ({"prob_half_body": 0}, {"num_joints_half_body": 9}):
        assert with_skeleton(make(document, train_pipeline=cfg)).keypoints.upper_body == ()


def test_several_categories_are_refused_with_the_yaml_of_one(make: Make, tmp_path: Path) -> None:
    document = coco_file(category(), category(["thumb", "wrist"], id=2, name="hand", skeleton=[]))
    message = refusal(make(document))
    assert message.startswith(
        "train.json: 2 categories have keypoints; one is trained on:\n"
        "  category 'hen' (id 1): 5 keypoints (nose, L_Eye, R_Eye, beak, comb), 1 annotations\n"
        "  category 'hand' (id 2): 2 keypoints (thumb, wrist), 1 annotations\n"
        "to train on the first of these, add to the experiment:\nskeleton:\n"
    )
    given = parse_experiment(f"exp_name: a\n{message[message.index('skeleton:') :]}")
    annotations = load_annotations(tmp_path / "train.json", given.keypoints)
    assert annotations.person_category["name"] == "hen"


def test_categories_with_the_same_keypoints_are_taken_as_one(make: Make, tmp_path: Path) -> None:
    """As the 54 animals of AP-10K's own files."""
    others = (category(id=2, name="cock"), category(["thumb"], id=3, name="hand", skeleton=[]))
    experiment = with_skeleton(make(coco_file(category(), others[0])))
    assert experiment.keypoints.keypoints == tuple(HEAD)
    (tmp_path / "train.json").write_text(json.dumps(coco_file(category(), *others)))
    annotations = load_annotations(tmp_path / "train.json", experiment.keypoints)
    assert annotations.category_ids == (1, 2)
    assert annotations.ann_ids.tolist() == [10, 11]
    assert "2 categories with these keypoints are taken as one: 'hen', 'cock', ..." in (
        annotations.notes
    )


def test_a_person_is_not_mixed_with_other_categories(tmp_path: Path) -> None:
    names = list(COCO.keypoints)
    document = coco_file(category(names, id=1, name="rider"), category(names, id=2, name="person"))
    (tmp_path / "train.json").write_text(json.dumps(document))
    annotations = load_annotations(tmp_path / "train.json")
    assert annotations.category_ids == (2,)
    assert annotations.notes == ()


def test_crowdpose_names_the_head_as_its_files_do(tmp_path: Path) -> None:
    crowdpose = preset("crowdpose")
    names = ["head" if name == "top_head" else name for name in crowdpose.keypoints]
    (tmp_path / "train.json").write_text(json.dumps(coco_file(category(names))))
    assert len(load_annotations(tmp_path / "train.json", crowdpose).ann_ids) == 1


def test_a_category_without_names(make: Make) -> None:
    document = coco_file({"id": 1, "name": "hen"})
    assert refusal(make(document)) == (
        "train.json: no category names its keypoints, so that skeleton: auto cannot read them. "
        "Write them into categories[].keypoints, or add to the experiment:\n"
        "skeleton:\n  # ? 5 names, in the order of the annotations\n  keypoints: []"
    )
    document["annotations"] = []
    assert refusal(make(document)).endswith("no annotation has any: is it a file of keypoints?")


WRONG: dict[str, tuple[Any, str]] = {
    "repeated names": (
        coco_file(category(["nose", "eye", "nose"])),
        "category 'hen' (id 1) in train.json: skeleton: keypoints has these names more than once: "
        "nose",
    ),
    "an empty name": (
        coco_file(category(["nose", "", "eye"], skeleton=[])),
        "category 'hen' (id 1) in train.json: keypoints.1: '': string should have at least 1 "
        "character",
    ),
    "limbs from 0": (
        coco_file(category(skeleton=[[0, 1], [1, 2], [2, 6], [3, 3], "a", [1, 2, 3]])),
        "train.json: category 'hen' (id 1): not a skeleton\n  5 limbs of 'skeleton' are not two "
        "different numbers of keypoints, 1 to 5 (COCO counts from 1): [0, 1], [2, 6], [3, 3], 'a', "
        "[1, 2, 3]",
    ),
    "annotations of another length": (
        coco_file(category(), count=4),
        "train.json: category 'hen' (id 1): not a skeleton\n  1 annotations have another number of "
        "keypoints than the 5 names of the category: annotation 10 (4 keypoints)",
    ),
    "no categories": (
        {"images": [], "annotations": []},
        "train.json: not a COCO file: 'categories' must be a list, found nothing",
    ),
    "a list": ([], "train.json: not a COCO file: 'categories' must be a list, found nothing"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_categories_are_refused_with_both_sides(make: Make, case: str) -> None:
    document, message = WRONG[case]
    assert refusal(make(document)) == message


@pytest.mark.parametrize(
    "names",
    [["nose", "R_Eye", "L_Eye", "beak", "comb"], HEAD[:4], ["a", *HEAD[1:]], [1, 2, 3]],
)
def test_training_and_validation_with_different_keypoints(make: Make, names: list[Any]) -> None:
    message = refusal(make(coco_file(category()), coco_file(category(names, skeleton=[]))))
    assert message == (
        "training and validation have different keypoints, or another order of them:\n"
        f"  train.json: 5: {', '.join(HEAD)}\n"
        f"  val.json: {len(names)}: {', '.join(map(str, names))}"
    )


@pytest.mark.parametrize("names", [["Nose", "left eye", "right eye", "beak", "comb"], [*range(5)]])
def test_the_same_keypoints_in_validation(make: Make, names: list[Any]) -> None:
    experiment = with_skeleton(make(coco_file(category()), coco_file(category(names))))
    assert experiment.keypoints.keypoints == tuple(HEAD)


def test_numbered_joints_are_not_the_same(make: Make) -> None:
    train = coco_file(category(["nose", "left_eye 1", "left_eye 2"]))
    val = coco_file(category(["nose", "left_eye 2", "left_eye 1"]))
    assert "another order" in refusal(make(train, val, **NO_FLIP))


values = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {"id": st.just(1)}, optional={"name": values, "keypoints": values, "skeleton": values}
    ),
    st.fixed_dictionaries({}, optional={"category_id": st.just(1) | values, "keypoints": values}),
    st.booleans(),
)
def test_any_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, entry: Any, annotation: Any, twice: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    document = {"categories": [entry] * (1 + twice), "annotations": [annotation]}
    path.write_text(json.dumps(document))
    with contextlib.suppress(UserError):
        draft = read_draft(path)
        draft.yaml()
        draft.fullest_pose()
        draft.skeleton()


def test_a_missing_training_file(make: Make, tmp_path: Path) -> None:
    assert refusal(make(None)) == (
        "skeleton: auto: data.train.ann_file not found: train.json; it has the names of the "
        "keypoints: --data-root DIR names the folder of the dataset"
    )
    with pytest.raises(UserError, match="data_root is not a folder"):
        prepare_coco(make(None, data_root=str(tmp_path / "nowhere")))


def test_annotations_of_another_length_say_theirs(make: Make, tmp_path: Path) -> None:
    make(coco_file({"id": 1, "name": "person"}, count=4))
    with pytest.raises(UserError, match=r"not a list of 51 numbers: annotation 10 \(12 numbers\)"):
        load_annotations(tmp_path / "train.json", preset("coco"))


def test_the_fullest_and_largest_pose_is_drawn(make: Make, tmp_path: Path) -> None:
    document = coco_file(category(), category(), category())
    few, small, large = document["annotations"]
    few["keypoints"] = [0, 0, 2, 90, 90, 2, *[0] * 9]
    small["keypoints"] = [v for k in range(5) for v in (k, k, 1)]
    large["keypoints"] = [v for k in range(5) for v in (9 * k, 9 * k, 2)]
    document["categories"] = [category()]
    make(document)
    pose = read_draft(tmp_path / "train.json").fullest_pose()
    assert pose is not None
    assert pose.tolist() == [[9.0 * k, 9.0 * k] for k in range(5)]
