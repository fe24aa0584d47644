"""The file as its readers see it: in a browser, wide and narrow, light and dark."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from run_sdpose import sdpose
from servers.browser import shown

from sdpose.config import load_experiment
from sdpose.models import build_model
from sdpose.report import write_report
from sdpose.report.history import read_history

SECTIONS = (
    "Training",
    "Precision",
    "What goes wrong",
    "Calibration",
    "Pictures",
    "Attention and masked tokens",
    "Speed",
    "Environment and digests",
)


@pytest.fixture(scope="module")
def report(run_folder: Path) -> Path:
    done = sdpose(run_folder, "report", "work_dirs/tiny_report", "-o", "full.html")
    assert done.returncode == 0, done.stderr
    assert "missing" not in done.stdout
    return run_folder / "full.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_in_a_browser(chromium: Any, report: Path, width: int, scheme: Any, tmp_path: Path) -> None:
    with shown(chromium, report, width, scheme) as page:
        assert page.locator("h2").all_inner_texts() == list(SECTIONS)
        assert page.locator(".missing").count() == 0
        broken = page.evaluate(
            "Promise.all([...document.querySelectorAll('image')].map(i => { const p = new Image();"
            " p.src = i.getAttribute('href'); return p.decode().then(() => 0, () => 1); }))"
            ".then(list => list.reduce((a, b) => a + b, 0))"
        )
        assert broken == 0
        page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert (tmp_path / "page.png").stat().st_size > 50_000


def test_texts_of_a_chart_do_not_overlap(chromium: Any, report: Path) -> None:
    page = chromium.new_page(viewport={"width": 1440, "height": 900})
    page.goto(report.as_uri())
    overlapping = page.evaluate("""
        [...document.querySelectorAll('.chart svg')].flatMap(svg => {
          const boxes = [...svg.querySelectorAll('text:not(.mark)')]
            .map(t => [t.textContent, t.getBoundingClientRect()]);
          return boxes.flatMap(([a, r], i) => boxes.slice(i + 1).filter(([b, s]) =>
            r.left < s.right && s.left < r.right && r.top + 2 < s.bottom && s.top + 2 < r.bottom
          ).map(([b]) => `${svg.getAttribute('aria-label')}: ${a} / ${b}`));
        })""")
    assert overlapping == []
    page.close()


def test_it_holds_what_the_run_left(report: Path, run_folder: Path) -> None:
    page = report.read_text(encoding="utf-8")
    metrics = json.loads((run_folder / "work_dirs/tiny_report/results.metrics.json").read_text())
    assert f"<dd>{metrics['AP']:.4f}</dd>" in page
    # AP and AR are fractions, on every page and in every table.
    assert all(0 <= float(v) <= 1 for v in re.findall(r"<dd>([\d.]+)</dd>", page))
    gains = re.findall(r'<td class="number">([+-][\d.]+)</td>', page)
    assert gains
    assert all(abs(float(gain)) <= 1 for gain in gains)
    assert "loss_vis_token_dist masks 50 % (random)" in page
    assert page.count("2 of 4 vision tokens are masked, cycle 1 → 2") == 6, "label and caption"
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page
    assert report.stat().st_size < 4 * 2**20


@pytest.mark.parametrize(
    ("patch_size", "gain", "left_out", "pictures"),
    [
        ([8, 6], 1, "Attention is left out: 2 x 2 patches are too coarse", 0),
        ([4, 3], 0, "Attention of cycle 1, 2 is left out: it is uniform", 0),
        ([4, 3], 300, "", 2 * 3 * 6),
    ],
)
def test_attention_that_shows_nothing_is_left_out(
    patch_size: list[int],
    gain: float,
    left_out: str,
    pictures: int,
    run_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """gain: of queries and keys; without any, a token looks everywhere."""
    monkeypatch.chdir(run_folder)
    work_dir = Path("work_dirs/tiny_report")
    experiment = load_experiment(
        str(work_dir / "experiment.yaml"),
        [f"model.keypoint_head.tokenpose_cfg.patch_size={patch_size}"],
    )
    torch.manual_seed(0)
    model = build_model(experiment.model)
    with torch.no_grad():
        for layer in model.layers:
            layer.attention.qkv.weight.mul_(gain)
    checkpoint = tmp_path / "model.pth"
    torch.save({"state_dict": model.state_dict()}, checkpoint)
    write_report(work_dir, tmp_path / "r.html", experiment=experiment, checkpoint=checkpoint)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.count('aria-label="Attention of the') == pictures
    assert page.count("is left out") == bool(left_out)
    assert left_out in page


@pytest.mark.slow
def test_what_is_missing_is_said(run_folder: Path, tmp_path: Path) -> None:
    """A work dir of which only the log files are left, without its dataset."""
    bare = tmp_path / "bare"
    shutil.copytree(run_folder / "work_dirs/tiny_report", bare)
    for path in [*bare.glob("*.pth"), *bare.glob("results*")]:
        path.unlink()
    done = sdpose(tmp_path, "report", bare)
    assert done.returncode == 0, done.stderr
    assert "No results of an evaluation are in the work dir" in done.stdout
    page = (bare / "report.html").read_text(encoding="utf-8")
    assert page.count('<p class="missing">') == 6
    assert f"sdpose test {bare}/experiment.yaml" in page

    done = sdpose(tmp_path, "report", tmp_path)
    assert done.returncode == 2
    assert "is no work dir of a run" in done.stderr


def test_history_of_an_interrupted_run(tmp_path: Path) -> None:
    """What was trained again counts once, as it was the second time."""

    def rows(epochs: list[int], loss: float) -> str:
        train = [
            {"mode": "train", "epoch": e, "iter": i, "loss": loss, "time": 0.5}
            for e in epochs
            for i in (2, 4)
        ]
        lines = [{"exp_name": "x"}, *train, {"mode": "val", "epoch": epochs[-1], "AP": loss}]
        return "".join(json.dumps(line) + "\n" for line in lines)

    (tmp_path / "20260101_000000.log.json").write_text(rows([1, 2], 1.0) + '{"mode": "tra')
    (tmp_path / "20260102_000000.log.json").write_text(rows([2, 3], 0.5))
    history = read_history(tmp_path)
    series = history.series("loss")
    np.testing.assert_array_equal(series.epochs, [0.5, 1, 1.5, 2, 2.5, 3])
    np.testing.assert_array_equal(series.values, [1, 1, 0.5, 0.5, 0.5, 0.5])
    assert history.starts == 2
    assert [row["AP"] for row in history.evaluations] == [1.0, 0.5]
