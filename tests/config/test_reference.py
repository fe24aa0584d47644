"""docs/training.md lists every key as the schema has it, and its examples can be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdpose.config import load_experiment
from sdpose.config.reference import example, keys, table

PAGE = Path(__file__).resolve().parents[2] / "docs/training.md"
# What a section needs beside one key of it.
MASKED = "={type: MaskedTokenDistilLoss, mask_ratio: 0.3}"
NEEDED = {
    "model.keypoint_head.loss_vis_token_dist": MASKED,
    "model.keypoint_head.loss_kpt_token_dist": MASKED,
    "data.train": "={ann_file: train.json, img_prefix: train}",
    "data.val": "={ann_file: val.json, img_prefix: val}",
    "optimizer_config.grad_clip": "={max_norm: 1}",
    "early_stopping": "={folder: rungs}",
}


def test_the_page_is_what_the_schema_says() -> None:
    assert PAGE.read_text(encoding="utf-8").endswith(f"-->\n{table()}"), "sdpose config keys"


@pytest.mark.parametrize(("path", "field"), keys(), ids=[path for path, _ in keys()])
def test_a_key_has_a_meaning_and_an_example_that_loads(path: str, field) -> None:  # type: ignore[no-untyped-def]
    assert field.description, f"{path} has no description"
    value = example(path, field)
    if path == "log_config.hooks.type":
        override = f"log_config.hooks=[{value}]"
    elif isinstance(value, tuple):
        override = f"{path}={list(value)}"
    else:
        override = f"{path}={value}"
    section = path.rpartition(".")[0]
    needed = [section + NEEDED[section]] if section in NEEDED else []
    load_experiment("sdpose_s_v2", [*needed, override])
