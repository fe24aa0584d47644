"""The file as its readers see it: in a browser, wide and narrow, light and dark."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_sdpose import sdpose

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


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail("chromium is not installed: apt-get install chromium")
        pytest.skip("chromium is not installed")
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    flags += ["--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=flags, timeout=90_000)
        yield browser
        browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_in_a_browser(chromium: Any, report: Path, width: int, scheme: Any, tmp_path: Path) -> None:
    context = chromium.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
    )
    page = context.new_page()
    page.set_default_timeout(60_000)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url.partition(":")[0]))
    page.goto(report.as_uri())
    assert said == []
    assert set(asked) <= {"file", "data"}
    assert page.locator("h2").all_inner_texts() == list(SECTIONS)
    assert page.locator(".missing").count() == 0
    wider = page.evaluate(
        "[...document.querySelectorAll('body *')].filter(e => !e.closest('pre') &&"
        " e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 120))"
    )
    assert wider == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    broken = page.evaluate(
        "Promise.all([...document.querySelectorAll('image')].map(i => { const p = new Image();"
        " p.src = i.getAttribute('href'); return p.decode().then(() => 0, () => 1); }))"
        ".then(list => list.reduce((a, b) => a + b, 0))"
    )
    assert broken == 0
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, background[4:-1].split(",")))
    assert (brightness > 600) == (scheme == "light")
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert (tmp_path / "page.png").stat().st_size > 50_000
    context.close()


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
    assert f"<dd>{100 * metrics['AP']:.1f}</dd>" in page
    assert "loss_vis_token_dist masks 50 % (random)" in page
    assert page.count("2 of 4 vision tokens are masked, cycle 1 → 2") == 6, "label and caption"
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page
    assert report.stat().st_size < 4 * 2**20


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
