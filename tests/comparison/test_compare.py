"""Runs side by side, from work dirs as trainings leave them."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from servers.browser import shown

from sdpose.cli import cli
from sdpose.config import dump_experiment, load_experiment
from sdpose.errors import UserError

THREE_JOINTS = "skeleton={keypoints: [a, b, c], sigmas: [0.1, 0.1, 0.1]}"


def leave(
    name: str,
    aps: list[float],
    *changes: str,
    boxes: str = "ground truth",
    digest: str = "a" * 64,
    metrics: dict[str, float] | None = None,
) -> None:
    """A work dir with one evaluation every ten epochs."""
    experiment = load_experiment("sdpose_s_v1", [f"exp_name={name}", *changes])
    folder = Path("work_dirs") / name
    folder.mkdir(parents=True)
    (folder / "experiment.yaml").write_text(dump_experiment(experiment))
    rows: list[dict[str, Any]] = [{"exp_name": name, "dataset_digest": digest}]
    rows += [
        {"mode": "val", "epoch": 10 * n, "iter": n, "AP": ap, "AP (M)": -1.0, "bbox_source": boxes}
        | (metrics or {})
        for n, ap in enumerate(aps, start=1)
    ]
    (folder / "20261126_000000.log.json").write_text("\n".join(map(json.dumps, rows)))


@pytest.fixture(autouse=True)
def work_dirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> str:
    return CliRunner().invoke(cli, ["compare", *arguments], catch_exceptions=False).stdout


def leave_three_configurations() -> list[str]:
    """Each with three seeds; returns the runs' names, the baseline first."""
    for seed, (base, wide, high) in enumerate(
        zip([0.700, 0.704, 0.702], [0.690, 0.712, 0.705], [0.720, 0.724, 0.722], strict=True)
    ):
        leave(f"base-seed_{seed}", [0.5, base, 0.6], f"seed={seed}")
        leave(f"wide-seed_{seed}", [wide], f"seed={seed}", "optimizer.lr=2e-3")
        leave(f"high-seed_{seed}", [high], f"seed={seed}", "optimizer.lr=5e-4")
    return [f"{kind}-seed_{seed}" for kind in ("base", "wide", "high") for seed in range(3)]


def test_seeds_are_one_configuration_and_noise_is_called_noise() -> None:
    names = leave_three_configurations()
    value = json.loads(run("--json", *names))
    assert [c["name"] for c in value["configurations"]] == ["high-seed", "wide-seed", "base-seed"]
    assert [r["epoch"] for r in value["configurations"][2]["runs"]] == [20, 20, 20]
    assert value["settings"] == {"optimizer.lr": [5e-4, 2e-3, 1e-3]}
    ap = value["metrics"]["AP"]
    assert ap[2]["spread"]["mean"] == pytest.approx(0.702)
    assert ap[2]["spread"]["deviation"] == pytest.approx(0.002)
    assert [a["difference"] and a["difference"]["verdict"] for a in ap] == [
        None,
        "within noise",
        "worse",
    ]
    # Both groups have a deviation of 0.002 over 3 seeds: t(0.975, 4) * 0.002 * sqrt(2/3).
    assert ap[2]["difference"]["half_width"] == pytest.approx(2.776445 * 0.0016329932, rel=1e-5)
    lines = run(*names).splitlines()
    assert " ".join(lines[1].split()) == "1 0.7220 ± 0.0020 10, 10, 10 0, 1, 2 high-seed"
    assert "0.7020 ± 0.0020  -0.0200 worse" in lines[3]
    assert "  optimizer.lr: 0.0005 (#1); 0.002 (#2); 0.001 (#3)" in lines


def test_the_table_fits_a_terminal() -> None:
    for number in range(12):
        name = "sdpose_s_v1_stemnet_coco_256x192_maskedkd_ratio_" + f"0.{number}"
        leave(name, [0.5 + number / 100], f"optimizer.lr={number + 1}e-4", f"seed={number}")
    lines = run(*(path.name for path in Path("work_dirs").iterdir())).splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[1] for line in lines[1:13]] == [f"{0.61 - n / 100:.4f}" for n in range(12)]
    assert lines[1].endswith("_ratio_0.11")


def test_one_seed_each_says_nothing_of_chance() -> None:
    leave("one", [0.7])
    leave("other", [0.9], "total_epochs=100")
    text = run("one", "work_dirs/other")
    assert [line.split() for line in text.splitlines()[1:3]] == [
        ["1", "0.9000", "10", "0", "other"],
        ["2", "0.7000", "-0.2000", "10", "0", "one"],
    ]
    assert "One seed each says nothing of chance" in text
    assert "total_epochs" in text


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ((), {"digest": "b" * 64}, "dataset bbbbbbbbbbbb: other\n  dataset aaaaaaaaaaaa: one"),
        ((), {"boxes": "detections"}, "boxes ground truth: one"),
        ((THREE_JOINTS,), {}, r"skeleton 3 keypoints \w{8}: other"),
        (("model.test_cfg.flip_test=false",), {}, "model.test_cfg.flip_test False: other"),
        (
            ("data_root=data/small",),
            {"digest": ""},
            "dataset in .*data/small: .*val2017.json: other",
        ),
    ],
)
def test_what_was_evaluated_differently_is_not_ranked(
    changes: tuple[str, ...], options: dict[str, str], said: str
) -> None:
    leave("one", [0.7])
    leave("other", [0.9], *changes, **options)
    with pytest.raises(UserError) as caught:
        run("one", "other")
    assert re.search(said, str(caught.value), re.DOTALL), str(caught.value)
    assert "--anyway" in str(caught.value)
    text = run("one", "other", "--anyway")
    assert "0.7000  other evaluation" in text
    assert "does not compare" in text
    assert "-0.2000" not in text
    assert json.loads(run("one", "other", "--anyway", "--json"))["evaluations"]


def test_the_metrics_that_runs_have_are_shown() -> None:
    """CrowdPose's by crowd level, PCK; and nothing that COCO alone has."""
    metrics = {"AP (E)": 0.8, "AP (M)": 0.7, "AP (H)": 0.5, "PCK": 0.9}
    leave("one", [0.7], THREE_JOINTS, metrics=metrics)
    leave("other", [0.6], THREE_JOINTS, "total_epochs=100", metrics=metrics)
    headers = [line.split("  ") for line in run("one", "other").splitlines() if "PCK" in line]
    assert [[cell.strip() for cell in line if cell] for line in headers] == [
        ["#", "AP (E)", "AP (M)", "AP (H)", "PCK", "run"]
    ]
    assert list(json.loads(run("--json", "one", "other"))["metrics"]) == ["AP", *metrics]
    run("one", "other", "--csv", "table.csv")
    with Path("table.csv").open() as file:
        assert next(csv.reader(file))[6:11] == ["AP", *metrics]


def test_runs_that_recorded_no_digest_compare_in_one_place() -> None:
    """As f51444b left them."""
    leave("one", [0.7], digest="")
    leave("other", [0.9], "total_epochs=100")
    assert "-0.2000" in run("one", "other")
    leave("pipeline", [0.8], "data_root=elsewhere", digest="")
    Path("work_dirs/pipeline/summary.json").write_text(json.dumps({"dataset_digest": "a" * 64}))
    assert "-0.1000" in run("pipeline", "other")


def test_what_is_no_run_is_told() -> None:
    leave("there", [])
    with pytest.raises(UserError, match="did you mean 'there'"):
        run("theer")
    with pytest.raises(UserError, match="has not been evaluated yet"):
        run("there")


def test_a_whole_folder_is_compared() -> None:
    leave("one", [0.7])
    leave("new", [])
    for name in ("mlartifacts", "registry", "sweeps"):
        Path("work_dirs", name).mkdir()
    Path("work_dirs/mlflow.db").touch()
    leave("damaged", [0.9])
    Path("work_dirs/damaged/experiment.yaml").write_text("exp_name: [")
    every = [str(path) for path in sorted(Path("work_dirs").iterdir())]
    result = CliRunner().invoke(cli, ["compare", *every], catch_exceptions=False)
    assert result.stdout.splitlines()[1].split() == ["1", "0.7000", "10", "0", "one"]
    assert result.stderr.startswith("skipped: work_dirs/damaged/experiment.yaml")
    assert "; work_dirs/mlartifacts: no work dir of a run; " in result.stderr
    assert result.stderr.endswith("; and 3 more\n")
    assert len(result.stderr.splitlines()) == 1


def test_a_page_and_a_table(chromium: Any, tmp_path: Path) -> None:
    names = leave_three_configurations()
    run(*names, "--csv", "runs.csv", "--html", "runs.html")
    with open("runs.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    assert rows[0]["run"] == "high-seed_0"
    assert (rows[0]["AP"], rows[0]["optimizer.lr"], rows[0]["dataset"]) == (
        "0.72",
        "0.0005",
        "a" * 12,
    )
    with shown(chromium, tmp_path / "runs.html", 390, "light") as page:
        assert page.locator("h1").inner_text() == "Runs by AP"
        cells = page.locator(".ranking tbody tr").first.locator("td").all_inner_texts()
        assert cells[:2] == ["high-seed", "0.0005"]
        assert page.locator("figcaption").all_inner_texts() == [
            "AP in validation",
            "AP by optimizer.lr",
        ]


def test_skeletons_do_not_compare() -> None:
    leave("person", [0.7])
    leave("sigmas", [0.9], "skeleton={keypoints: [a, b], sigmas: [1.0, 1.0]}")
    with pytest.raises(UserError) as error:
        run("person", "sigmas")
    assert "  skeleton coco: person" in str(error.value)
    assert re.search(r"  skeleton 2 keypoints [0-9a-f]{8}: sigmas", str(error.value))
