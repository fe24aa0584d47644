"""`--sweep NAME --dry-run` says in a table what would run."""

from __future__ import annotations

from pipelines.sweep_run import SweepRun
from sdpose.config.schema import Sweep
from sdpose.sweeps import expand, load_sweep


def lines(sweep: Sweep) -> list[str]:
    return SweepRun(sweep, expand(sweep, rungs="rungs"), 2).summary()


def test_every_trial_is_a_line_with_its_values() -> None:
    sweep = load_sweep("maskedkd")
    printed = lines(sweep)
    assert printed[0] == "sweep maskedkd: 24 trials of maskedkd_v2, 2 at a time"
    assert "total_epochs 100, lr_config.step [70, 90]" in printed[1]
    assert [line.split() for line in printed[-25:-1]] == [
        [f"{ratio:g}", f"{weight:g}", strategy]
        for ratio in (0.2, 0.3, 0.5, 0.7)
        for weight in (1e-6, 1e-5, 1e-4)
        for strategy in ("random", "importance")
    ]
    assert max(map(len, printed)) <= 100


def test_trials_with_other_keys_and_seeds() -> None:
    sweep = Sweep(
        name="s", base="quickstart", grid={"lr": (1e-3,)}, trials=({"amp": "off"},), seeds=(3, 4)
    )
    assert [line.split() for line in lines(sweep)[1:-1]] == [
        ["lr", "amp", "seed"],
        ["0.001", "3"],
        ["0.001", "4"],
        ["off", "3"],
        ["off", "4"],
    ]
