"""docs/training.md lists every key as the schema has it, and its examples can be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdpose.cli.key_reference import table
from sdpose.config import load_experiment
from sdpose.config.keys import Key, as_yaml, keys

PAGE = Path(__file__).resolve().parents[2] / "docs/training.md"
# What a section needs beside one key of it.
NEEDED = {
    "model.keypoint_head.loss_vis_token_dist": "={type: MaskedTokenDistilLoss}",
    "model.keypoint_head.loss_kpt_token_dist": "={type: MaskedTokenDistilLoss}",
    "data.train": "={ann_file: train.json, img_prefix: train}",
    "data.val": "={ann_file: val.json, img_prefix: val}",
    "optimizer_config.grad_clip": "={max_norm: 1}",
    "early_stopping": "={folder: rungs}",
}
ONE_VALUE = (
    "model.keypoint_head.loss_keypoint.type",
    "model.keypoint_head.tokenpose_cfg.feature_size",
    "model.keypoint_head.tokenpose_cfg.heatmap_size",
    "evaluation.metric",
)


def test_the_page_is_what_the_schema_says() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.endswith(f"-->\n{table()}"), "make docs/training.md"


@pytest.mark.parametrize("key", keys(), ids=lambda key: key.path)
def test_a_key_has_a_meaning_and_an_example_that_loads(key: Key) -> None:
    assert key.meaning, f"{key.path} has no description"
    section = key.path.rpartition(".")[0]
    needed = [section + NEEDED[section]] if section in NEEDED else []
    load_experiment("sdpose_s_v2", [*needed, f"{key.path}={as_yaml(key.example)}"])
    if key.path not in ONE_VALUE:
        assert as_yaml(key.example) != as_yaml(key.default), "an example shows what can be changed"
