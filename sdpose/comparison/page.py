"""The ranking of a sweep, or of any runs, as a page: one file that needs no network, in the style
of a run's."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import jinja2
import numpy as np

from sdpose.comparison.ranking import (
    Entry,
    ap_text,
    behind_text,
    behind_the_best,
    number,
    status_text,
)
from sdpose.comparison.runs import Comparison
from sdpose.comparison.trial_outcome import TrialOutcome
from sdpose.report.charts import Axis, Plot, axis_for
from sdpose.report.history import Series, read_history
from sdpose.report.training_figures import Figure
from sdpose.training.paths import LATEST

MAX_CURVES = 200
MAX_KEYS = 6  # of runs that have little in common, hundreds may differ


def write_comparison(path: Path, comparison: Comparison) -> None:
    """The page of runs that were named one by one."""
    keys = list(comparison.settings)[:MAX_KEYS]
    entries = []
    for place, configuration in enumerate(comparison.configurations):
        outcomes = [
            TrialOutcome(
                run.experiment.exp_name,
                "finished",
                ap=run.metrics.get("AP"),
                checkpoint=str(run.work_dir / LATEST),
            )
            for run in configuration.runs
        ]
        settings = {key: comparison.settings[key][place] for key in keys}
        ap, name = configuration.spread("AP"), configuration.name
        entries.append(Entry(settings, tuple(outcomes), ap, name))
    differently = [
        f"{key}: {', '.join(map(str, dict.fromkeys(values)))}"
        for key, values in comparison.evaluations.items()
    ]
    write_page(path, "", entries, evaluated_differently=differently)


def write_page(
    path: Path,
    sweep: str,
    entries: Sequence[Entry],
    evaluated_differently: Sequence[str] = (),
) -> None:
    """Curves come from the work dirs that can be seen from here; others have none.

    sweep: its name; "": the runs are of no sweep. evaluated_differently: why their AP does not
    compare.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sdpose.comparison", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    keys = list(dict.fromkeys(key for entry in entries for key in entry.settings))
    figures = [_curves(entries), *(_effect(entries, key) for key in keys)]
    rows = [
        {
            "name": entry.name,
            "settings": [number(entry.settings.get(key, "")) for key in keys],
            "ap": ap_text(entry),
            "behind": "" if evaluated_differently else behind_text(behind),
            "seeds": entry.ap.count if entry.ap else 0,
            "trials": status_text(entry),
        }
        for entry, behind in zip(entries, behind_the_best(entries), strict=True)
    ]
    document = environment.get_template("page.html").render(
        style=resources.files("sdpose.report").joinpath("style.css").read_text(encoding="utf-8"),
        sweep=sweep,
        made=time.strftime("%Y-%m-%d %H:%M"),
        tiles=_tiles(entries),
        figures=[figure for figure in figures if figure is not None],
        keys=keys,
        named=any(entry.name for entry in entries),
        evaluated_differently=evaluated_differently,
        rows=rows,
        messages=[o for entry in entries for o in entry.outcomes if o.message],
    )
    path.write_text(document, encoding="utf-8")


def _tiles(entries: Sequence[Entry]) -> list[tuple[str, str, str]]:
    outcomes = [outcome for entry in entries for outcome in entry.outcomes]
    counts = [
        (status, str(sum(outcome.status == status for outcome in outcomes)), "")
        for status in ("finished", "stopped", "failed")
    ]
    if not entries or entries[0].ap is None:
        return [("Best AP", "–", "no trial ran to its end"), *counts]
    best = entries[0].ap
    spread = f"; ± {best.deviation:.4f} over {best.count} seeds" if best.deviation else ""
    return [("Best AP", f"{best.mean:.4f}", entries[0].label + spread), *counts]


def _curves(entries: Sequence[Entry]) -> Figure | None:
    """AP in validation of every trial, the best setting's in front."""
    curves: list[tuple[str, Series, bool]] = []
    for entry in entries[:MAX_CURVES]:
        for outcome in entry.outcomes:
            if outcome.checkpoint:
                series = read_history(Path(outcome.checkpoint).parent).evaluation("AP")
                if len(series):
                    curves.append((outcome.name, series, entry is entries[0]))
    if not curves:
        return None
    last = max(float(series.epochs.max()) for _, series, _ in curves)
    y = axis_for("", [series.values for _, series, _ in curves], zero=True)
    plot = Plot(Axis("epoch", 0, last), y, description="AP in validation of every trial")
    for name, series, best in reversed(curves):
        css = "c1" if best else "other"
        titles = [
            f"{name}: {v:.4f}, epoch {e:.0f}"
            for e, v in zip(series.epochs, series.values, strict=True)
        ]
        plot.line(series.epochs, series.values, css)
        plot.dots(series.epochs, series.values, css, titles, radius=3 if best else 2)
    legend = [("c1", entries[0].label), ("other", "all others")]
    return Figure("AP in validation", plot.render(), legend if len(entries) > 1 else ())


def _effect(entries: Sequence[Entry], key: str) -> Figure | None:
    """AP against one key's values: a dot for each trial that ran to its end, and their means."""
    points: dict[str, list[tuple[str, float]]] = {}
    for entry in entries:
        if key in entry.settings:
            reached = points.setdefault(number(entry.settings[key]), [])
            reached += [
                (o.name, o.ap)
                for o in entry.outcomes
                if o.status == "finished" and o.ap is not None
            ]
    values = [value for value, reached in points.items() if reached]
    if len(values) < 2:
        return None
    values.sort(key=_as_number)
    # Places, not amounts, along the axis: values are a handful, and often words or powers of ten.
    x = Axis(key, 0.5, len(values) + 0.5, marks=tuple(enumerate(values, start=1)))
    y = axis_for("", [[ap for _, ap in points[value]] for value in values])
    plot = Plot(x, y, description=f"AP by {key}")
    means = [float(np.mean([ap for _, ap in points[value]])) for value in values]
    plot.line(range(1, len(values) + 1), means, "c1")
    for place, value in enumerate(values, start=1):
        names, aps = zip(*points[value], strict=True)
        titles = [f"{name}: {ap:.4f}" for name, ap in points[value]]
        plot.dots([place] * len(names), aps, "c1", titles)
    return Figure(f"AP by {key}", plot.render(), note="A dot for each trial; the line is the mean.")


def _as_number(value: str) -> tuple[float, str]:
    try:
        return (float(value), "")
    except ValueError:
        return (float("inf"), value)
