from __future__ import annotations

from pathlib import Path

import pytest
import torch
from reference_weights import reference_table

from sdpose.inference.complexity import Macs, count_macs, format_models_table, models_table
from sdpose.models import MODELS


@pytest.fixture(scope="module")
def rows():
    return models_table()


@pytest.mark.slow
def test_counts_equal_the_official_codes(reference_dir: Path, rows) -> None:
    assert [row.name for row in rows] == list(MODELS)
    for row in rows:
        table = reference_table(reference_dir, row.name)
        assert row.parameters == table["params"]["trainable"]
        for macs, key in ((row.one_cycle, "macs_cycle1"), (row.all_cycles, "macs_all_cycles")):
            attention = table[key]["head"]["aten.bmm"]
            assert macs == Macs(linear=table[key]["total"] - attention, attention=attention)
        assert row.paper[:2] == (table["paper"]["params_M"], table["paper"]["gflops"])
        # The paper rounds to one digit, and counts the fixed position embedding of SDPose-B.
        assert row.parameters / 1e6 == pytest.approx(row.paper[0], abs=0.055)
        assert row.one_cycle.linear / 1e9 == pytest.approx(row.paper[1], abs=0.075)


@pytest.mark.slow
def test_the_table_names_every_model(rows) -> None:
    lines = format_models_table(rows).splitlines()
    assert next(line for line in lines if line.startswith("sdpose_b")).split() == [
        *("sdpose_b", "13.15", "13.2", "5.13", "5.2", "5.47", "7.04", "0.737")
    ]


def test_counting_leaves_a_real_model_as_it_is() -> None:
    model = MODELS["sdpose_t"]()
    with torch.device("meta"):
        on_meta = MODELS["sdpose_t"]()
    small = (192, 256)
    assert count_macs(model, small, method="predict") == count_macs(
        on_meta, small, method="predict"
    )
    assert model.keypoint_tokens.device.type == "cpu"
