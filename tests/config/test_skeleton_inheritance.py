"""A skeleton through bases, overrides, and the texts that steps pass to each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdpose.config import (
    Experiment,
    dump_experiment,
    load_experiment,
    parse_experiment,
    summary_values,
)
from sdpose.config.schema import COCO, preset
from sdpose.errors import UserError


def written(folder: Path, base: str, own: str = "", *overrides: str) -> Experiment:
    (folder / "first.yaml").write_text(f"exp_name: first\n{base}\n")
    (folder / "own.yaml").write_text(f"base: first\nexp_name: own\n{own}\n")
    return load_experiment(folder / "own.yaml", overrides)


@pytest.mark.parametrize(
    "skeleton",
    [
        "coco",
        "hand21",
        "{upper_body: []}",
        "{keypoints: [nose, left_eye, right_eye], flip_pairs: [], upper_body: []}",
        "{keypoints: ['1', '2', '3'], flip_pairs: []}",
    ],
)
def test_short_texts_keep_it_whole(skeleton: str) -> None:
    """As a sweep passes its trials on: what is empty there is a value, not a default."""
    experiment = parse_experiment(f"exp_name: a\nskeleton: {skeleton}\n")
    for whole in (True, False):
        text = dump_experiment(experiment, whole=whole)
        assert parse_experiment(text).skeleton == experiment.skeleton


def test_keys_below_a_preset_change_it(tmp_path: Path) -> None:
    crowdpose = preset("crowdpose")
    changed = written(tmp_path, "skeleton: crowdpose", "skeleton: {upper_body: []}").keypoints
    assert changed.keypoints == crowdpose.keypoints
    assert (changed.sigmas, changed.upper_body) == (crowdpose.sigmas, ())
    by_option = written(tmp_path, "skeleton: crowdpose", "", "skeleton.upper_body=[]")
    assert by_option.keypoints == changed
    assert written(tmp_path, "", "", "skeleton.upper_body=[]").keypoints.keypoints == COCO.keypoints


def test_keypoints_on_the_command_line_replace_the_inherited_ones(tmp_path: Path) -> None:
    """And keep what other options say, in whichever order."""
    options = ["skeleton.keypoints=[a, b]", "skeleton.sigmas=[0.2, 0.3]"]
    for base in ("", "skeleton: crowdpose", "skeleton: auto", "skeleton: {upper_body: [nose]}"):
        for overrides in (options, options[::-1]):
            if base == "skeleton: auto" and overrides is not options:
                continue  # sigmas of keypoints that are not known yet
            found = written(tmp_path, base, "", *overrides).keypoints
            assert (found.keypoints, found.sigmas) == (("a", "b"), (0.2, 0.3))
            assert (found.limbs, found.upper_body) == ((), ())


def test_keys_below_auto_need_keypoints(tmp_path: Path) -> None:
    for own, overrides in (("skeleton: {limbs: []}", ()), ("", ("skeleton.limbs=[]",))):
        with pytest.raises(UserError, match=r"those of the training file .*give keypoints, too"):
            written(tmp_path, "skeleton: auto", own, *overrides)
    own = "skeleton: {keypoints: [a, b], sigmas: [1, 1]}"
    assert written(tmp_path, "skeleton: auto", own).keypoints.keypoints == ("a", "b")


def test_nothing_below_the_key_is_not_auto(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"skeleton.*: nothing is below it: expected auto"):
        written(tmp_path, "skeleton:")


def test_control_characters_are_refused() -> None:
    with pytest.raises(UserError, match=r"control characters: 'a\\x01b'"):
        parse_experiment({"exp_name": "a", "skeleton": {"keypoints": ["a\x01b"]}})


def test_many_limbs_are_refused_at_once() -> None:
    names = [f"n{i}" for i in range(200)]
    limbs = [[a, b] for a in names for b in names if a != b]
    document = {"exp_name": "a", "skeleton": {"keypoints": names, "flip_pairs": [], "limbs": limbs}}
    with pytest.raises(UserError, match=r"skeleton.limbs: .*at most 5000"):
        parse_experiment(document)


def test_summaries_tell_pairs_and_halves_apart() -> None:
    def summary(pairs: str) -> dict[str, object]:
        text = f"exp_name: a\nskeleton: {{keypoints: [left_a, right_a], flip_pairs: {pairs}}}\n"
        return summary_values(parse_experiment(text))

    one, other = summary("[]"), summary("[[left_a, right_a]]")
    assert one["skeleton"] == other["skeleton"]
    assert one["skeleton.training"] != other["skeleton.training"]
    assert "skeleton.training" not in summary_values(parse_experiment("exp_name: a\n"))
