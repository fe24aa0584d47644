"""Names in a file of weights reach a message escaped and shortened."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from sdpose.config import load_experiment, parse_experiment
from sdpose.errors import UserError
from sdpose.inference.load import load_network
from sdpose.models import load_weights
from sdpose.models.sdpose import SDPose

LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n + 1}: &a{n + 1} [{','.join([f'*a{n}'] * 10)}]\n" for n in range(11)
)


def test_names_of_tensors_reach_a_warning_escaped(tmp_path: Path) -> None:
    from sdpose.models import build_model

    model = build_model(load_experiment("quickstart").model)
    assert isinstance(model, SDPose)
    path = tmp_path / "evil.pth"
    evil = {"\x1b]0;owned\x07\nerror: x": torch.zeros(1), "x" * 10_000: torch.zeros(1)}
    torch.save({"state_dict": model.state_dict() | evil}, path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_weights(model, path)
    (message,) = (str(warning.message) for warning in caught)
    assert "\\u001b]0;owned\\u0007\\u000aerror: x" in message
    assert len(message) < 1000
    torch.save({"state_dict": {"\x1b[2J": 5}}, path)
    with pytest.raises(UserError) as refused:
        load_weights(model, path)
    assert "\x1b" not in str(refused.value)


@pytest.mark.parametrize(
    "experiment",
    [
        *(LAUGHS, "{a: " * 3000, "a: " + "1" * 5000, "exp_name: 2001-99-99", "a: \x00", 5, None),
        *([], {"exp_name": "x", "unknown": [[[[[[[[[[1]]]]]]]]]]}, torch.zeros(3), b"\xff\xfea"),
    ],
    ids=range(11),
)
def test_an_experiment_in_a_checkpoint_is_read_within_bounds(
    experiment: object, tmp_path: Path
) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"state_dict": {"x": torch.zeros(1)}, "meta": {"experiment": experiment}}, path)
    with pytest.raises(UserError):
        load_network(path)


def test_a_deep_mapping_is_no_experiment() -> None:
    deep: dict[str, object] = {}
    for _ in range(5000):
        deep = {"model": deep}
    with pytest.raises(UserError, match="model"):
        parse_experiment(deep)
