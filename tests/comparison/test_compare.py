"""Runs side by side, from work dirs as trainings leave them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from sdpose.cli import cli
from sdpose.config import dump_experiment, load_experiment
from sdpose.errors import UserError


def leave(name: str, aps: list[float], *changes: str) -> None:
    """A work dir with one evaluation every ten epochs."""
    experiment = load_experiment("sdpose_s_v1", [f"exp_name={name}", *changes])
    folder = Path("work_dirs") / name
    folder.mkdir(parents=True)
    (folder / "experiment.yaml").write_text(dump_experiment(experiment))
    rows = [
        {"mode": "val", "epoch": 10 * n, "iter": n, "AP": ap, "AP (M)": -1.0}
        for n, ap in enumerate(aps, start=1)
    ]
    (folder / "20261126_000000.log.json").write_text("\n".join(map(json.dumps, rows)))


@pytest.fixture(autouse=True)
def work_dirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> str:
    return CliRunner().invoke(cli, ["compare", *arguments], catch_exceptions=False).output


def test_seeds_are_one_configuration_and_noise_is_called_noise() -> None:
    for seed, (base, wide, high) in enumerate(
        zip([0.700, 0.704, 0.702], [0.690, 0.712, 0.705], [0.720, 0.724, 0.722], strict=True)
    ):
        leave(f"base-seed_{seed}", [0.5, base, 0.6], f"seed={seed}")
        leave(f"wide-seed_{seed}", [wide], f"seed={seed}", "optimizer.lr=2e-3")
        leave(f"high-seed_{seed}", [high], f"seed={seed}", "optimizer.lr=5e-4")
    names = [f"{kind}-seed_{seed}" for kind in ("base", "wide", "high") for seed in range(3)]
    value = json.loads(run("--json", *names))
    assert [c["name"] for c in value["configurations"]] == [
        "base-seed",
        "wide-seed",
        "high-seed",
    ]
    assert [r["epoch"] for r in value["configurations"][0]["runs"]] == [20, 20, 20]
    assert value["settings"] == {"optimizer.lr": [1e-3, 2e-3, 5e-4]}
    ap = value["metrics"]["AP"]
    assert ap[0]["spread"]["mean"] == pytest.approx(0.702)
    assert ap[0]["spread"]["deviation"] == pytest.approx(0.002)
    assert [a["difference"] and a["difference"]["verdict"] for a in ap] == [
        None,
        "within noise",
        "better",
    ]
    # Both groups have a deviation of 0.002 over 3 seeds: t(0.975, 4) * 0.002 * sqrt(2/3).
    assert ap[2]["difference"]["half_width"] == pytest.approx(2.776445 * 0.0016329932, rel=1e-5)
    text = run(*names)
    assert "0.7220 ± 0.0020  +0.0200 better" in text
    assert "optimizer.lr" in text


def test_one_seed_each_says_nothing_of_chance() -> None:
    leave("one", [0.7])
    leave("other", [0.9], "total_epochs=100")
    text = run("one", "work_dirs/other")
    assert "0.9000  +0.2000 one seed each" in text
    assert "One seed each says nothing of chance" in text
    assert "total_epochs" in text


def test_what_is_no_run_is_told() -> None:
    leave("there", [])
    with pytest.raises(UserError, match="did you mean 'there'"):
        run("theer")
    with pytest.raises(UserError, match="has not been evaluated yet"):
        run("there")
