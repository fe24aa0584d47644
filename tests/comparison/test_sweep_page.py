"""The page of a sweep, in a browser."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from servers.browser import shown

from sdpose.comparison.page import write_page
from sdpose.comparison.ranking import rank, winner
from sdpose.comparison.trial_outcome import TrialOutcome
from sdpose.errors import UserError

RATIOS, WEIGHTS, SEEDS = (0.2, 0.3, 0.5, 0.7), (1e-6, 1e-5, 1e-4), (0, 1)


@pytest.fixture
def entries(tmp_path: Path) -> Any:
    """24 trials; those of ratio 0.7 were stopped early, and one has failed."""
    trials, outcomes = [], []
    for ratio, weight, seed in itertools.product(RATIOS, WEIGHTS, SEEDS):
        name = f"maskedkd-mask_ratio_{ratio}-loss_weight_{weight:g}-seed_{seed}"
        settings = {"mask_ratio": ratio, "loss_weight": weight}
        trials.append({"trial": name, "settings": json.dumps(settings)})
        ap = 0.7 - abs(ratio - 0.3) / 10 + 0.001 * seed + (weight == 1e-5) / 100
        status = "stopped" if ratio == 0.7 else "finished"
        if (ratio, weight, seed) == (0.2, 1e-6, 1):
            outcomes.append(TrialOutcome(name, "failed", message="training diverged in epoch 1"))
            continue
        folder = tmp_path / name
        folder.mkdir()
        rows = [
            {"mode": "val", "epoch": e, "iter": e, "AP": ap * e / 100} for e in range(10, 101, 10)
        ]
        (folder / "20261126_000000.log.json").write_text("\n".join(map(json.dumps, rows)))
        checkpoint = str(folder / "best_AP_epoch_100.pth")
        message = "one of 3 goes on" if status == "stopped" else ""
        outcomes.append(
            TrialOutcome(name, status, ap, 100, checkpoint, message=message)  # type: ignore[arg-type]
        )
    return rank(trials, [outcome.to_json() for outcome in reversed(outcomes)])


def test_the_order_is_that_of_the_means(entries: Any) -> None:
    assert (entries[0].settings, entries[0].ap.count) == (
        {"mask_ratio": 0.3, "loss_weight": 1e-5},
        2,
    )
    assert winner(entries).name == "maskedkd-mask_ratio_0.3-loss_weight_1e-05-seed_1"
    assert [entry.settings["mask_ratio"] for entry in entries[-3:]] == [0.7] * 3
    assert [entry.ap for entry in entries[-3:]] == [None] * 3
    with pytest.raises(UserError, match="none of the sweep's trials ran to the end"):
        winner(entries[-3:])


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_in_a_browser(chromium: Any, entries: Any, width: int, scheme: str, tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", "maskedkd", entries)
    with shown(chromium, tmp_path / "page.html", width, scheme) as page:
        assert page.locator("figcaption").all_inner_texts() == [
            "AP in validation",
            "AP by mask_ratio",
            "AP by loss_weight",
        ]
        assert page.locator(".ranking tbody tr").count() == 12
        assert page.locator(".tiles dd").all_inner_texts() == ["0.7105", "17", "6", "1"]
