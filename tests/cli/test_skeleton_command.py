"""`sdpose skeleton`: what it prints can be pasted, and what it draws has every keypoint."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from sdpose.cli import cli
from sdpose.config import load_experiment, parse_experiment
from sdpose.config.schema import PRESET_NAMES, preset
from sdpose.errors import UserError

SVG = "{http://www.w3.org/2000/svg}"
NAMES = ["nose", "L_Eye", "R_Eye", "left <&> wing"]


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, ["skeleton", *map(str, words)])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "train.json"
    annotation = {
        "id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 90, 90],
        "keypoints": [10, 10, 2, 20, 5, 2, 5, 5, 2, 0, 0, 0],
    }  # fmt: skip
    categories = [{"id": 1, "name": "hen", "keypoints": NAMES, "skeleton": [[1, 2], [1, 4]]}]
    path.write_text(json.dumps({"annotations": [annotation], "categories": categories}))
    return path


def drawn(path: Path) -> list[tuple[float, float]]:
    """The places of the keypoints, all within the picture."""
    root = ElementTree.parse(path).getroot()
    size = float(root.attrib["viewBox"].split()[2])
    circles = [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in root.iter(f"{SVG}circle")]
    assert all(0 < value < size for circle in circles for value in circle)
    return circles


def test_list_names_the_presets() -> None:
    lines = run("list").output.splitlines()
    assert tuple(line.split()[0] for line in lines[1:]) == PRESET_NAMES
    assert lines[0].split() == ["skeleton", "keypoints", "flip", "pairs", "names"]


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_a_preset_is_printed_and_drawn(name: str, tmp_path: Path) -> None:
    shown = run("show", name, "--out", tmp_path / "a.svg")
    assert parse_experiment(f"exp_name: a\n{shown.stdout}").keypoints == preset(name)
    assert shown.stderr == f"drawn in {tmp_path / 'a.svg'}\n"
    places = drawn(tmp_path / "a.svg")
    assert len(places) == preset(name).num_keypoints
    # Who faces the camera has the left on the right of the picture.
    for left, right in preset(name).flip_pairs[:6]:
        names = preset(name).keypoints
        assert places[names.index(left)][0] >= places[names.index(right)][0]


def test_a_file_is_printed_with_what_it_does_not_say(file: Path, tmp_path: Path) -> None:
    shown = run("show", file, "--out", tmp_path / "a.svg")
    assert (
        shown.stdout
        == f"""\
skeleton:
  # of category 'hen' (id 1) in {file}
  keypoints: [nose, L_Eye, R_Eye, left <&> wing]
  # [left, right]; from the names
  # ? no partner: left <&> wing
  flip_pairs:
  - [L_Eye, R_Eye]
  # COCO's, by name; 0.05, of no dataset: left <&> wing
  sigmas: [0.026, 0.025, 0.025, 0.05]
  # of the category's skeleton
  limbs:
  - [nose, L_Eye]
  - [nose, left <&> wing]
  # from the names
  upper_body: [nose, L_Eye, R_Eye, left <&> wing]
"""
    )
    assert parse_experiment(f"exp_name: a\n{shown.stdout}").keypoints.keypoints == tuple(NAMES)
    nose, left_eye, right_eye, wing = drawn(tmp_path / "a.svg")
    assert right_eye[0] < nose[0] < left_eye[0]
    assert right_eye[1] == left_eye[1] < nose[1] < wing[1]  # the wing is not annotated: below


def test_an_experiment(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "hens.yaml"
    path.write_text(
        f"exp_name: hens\nskeleton: auto\ndata_root: {tmp_path}\ndata: {{train: "
        "{ann_file: train.json, img_prefix: a}}\n"
    )
    assert run("show", path).stdout == run("show", file).stdout
    path.write_text("exp_name: hens\nskeleton: {keypoints: [nose, tail]}\n")
    shown = run("show", path).stdout
    assert shown.startswith(f"# of {path}\nskeleton:\n  keypoints: [nose, tail]\n")
    skeleton = parse_experiment(f"exp_name: a\n{shown}").keypoints
    assert skeleton == load_experiment(path).keypoints
    assert run("show", "quickstart").stdout.startswith("# of quickstart, the shipped skeleton coco")


def test_a_skeleton_without_limbs_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "dots.yaml"
    path.write_text("exp_name: dots\nskeleton: {keypoints: [nose, tail, ear]}\n")
    assert run("show", path, "--out", tmp_path / "a.svg").exit_code == 0
    assert len(set(drawn(tmp_path / "a.svg"))) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.json"], "file not found: nowhere.json"),
        (["cocoo"], "unknown experiment 'cocoo'"),
        (["coco", "--out", "a.png"], "--out a.png: the picture is an SVG: give it a name that "),
    ],
)
def test_mistakes(words: list[str], message: str) -> None:
    error = run("show", *words).exception
    assert isinstance(error, UserError)
    assert message in str(error)


def test_a_picture_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file/a.svg"
    with pytest.raises(UserError, match=r"file/a\.svg"):
        CliRunner().invoke(
            cli, ["skeleton", "show", "coco", "--out", str(out)], catch_exceptions=False
        )
