"""Figures of a training: its curves, AP by epoch, and speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from sdpose.report.charts import Axis, Plot, axis_for
from sdpose.report.history import History, Series


@dataclass(frozen=True)
class Figure:
    title: str
    svg: Markup
    legend: Sequence[tuple[str, str]] = ()  # CSS class, text
    note: str = ""


LOSSES = {
    "heatmap_loss": "heatmaps",
    "vis_dist_loss": "vision tokens (distillation)",
    "kpt_dist_loss": "keypoint tokens (distillation)",
}
APS = {"AP": "AP", "AP .5": "AP at OKS 0.50", "AP .75": "AP at OKS 0.75"}


def training_figures(history: History) -> list[Figure]:
    """Those for which the log has values."""
    figures = [
        _average_precision(history),
        _curve(history, "Loss", {"loss": "total"}, log=True),
        _curve(history, "Loss by part, as weighted", LOSSES, log=True),
        _curve(history, "Learning rate", {"lr": "learning rate"}, zero=True),
        _curve(history, "Gradient norm, before clipping", {"grad_norm": "norm"}, log=True),
        _curve(
            history,
            "Joints on the spot in training",
            {"acc_pose": "joints"},
            "Share of heatmap peaks within 5 % of the heatmap's size of the target's.",
            zero=True,
            percent=True,
        ),
    ]
    return [figure for figure in figures if figure is not None]


def speed_figures(history: History) -> list[Figure]:
    figures = [
        _curve(
            history,
            "Throughput, samples a second",
            {"samples_per_second": "samples"},
            "Of all processes together.",
        ),
        _data_wait(history),
        _curve(
            history,
            "Memory, MB",
            {"memory": "memory"},
            "The peak so far: of the GPU, else of the main process.",
        ),
    ]
    return [figure for figure in figures if figure is not None]


def _curve(
    history: History,
    title: str,
    names: dict[str, str],
    note: str = "",
    *,
    log: bool = False,
    zero: bool = True,
    percent: bool = False,
) -> Figure | None:
    series = {text: s for name, text in names.items() if len(s := history.series(name))}
    if not series:
        return None
    y = axis_for("", [s.values for s in series.values()], log=log, zero=zero, percent=percent)
    plot = Plot(_epochs(series), y, description=f"{title} over epochs")
    legend: list[tuple[str, str]] = []
    for index, (text, s) in enumerate(series.items(), start=1):
        plot.line(s.epochs, s.values, f"c{index}")
        legend.append((f"c{index}", text))
    return Figure(title, plot.render(), legend if len(legend) > 1 else (), note)


def _average_precision(history: History) -> Figure | None:
    series = {text: s for name, text in APS.items() if len(s := history.evaluation(name))}
    if not series:
        return None
    y = Axis("", 0, 1)
    plot = Plot(_epochs(series), y, description="Average precision over epochs")
    legend = []
    for index, (text, s) in enumerate(series.items(), start=1):
        plot.line(s.epochs, s.values, f"c{index}")
        titles = [
            f"{text}: {v:.4f}, epoch {e:.0f}" for e, v in zip(s.epochs, s.values, strict=True)
        ]
        if len(s) <= 40:
            plot.dots(s.epochs, s.values, f"c{index}", titles)
        legend.append((f"c{index}", text))
    ap = series["AP"]
    best = int(np.argmax(ap.values))
    note = f"Best AP {ap.values[best]:.4f} at epoch {ap.epochs[best]:.0f}."
    return Figure("Average precision in validation", plot.render(), legend, note)


def _data_wait(history: History) -> Figure | None:
    times, waits = history.series("time"), history.series("data_time")
    if not len(times) or len(times) != len(waits):
        return None
    share = waits.values / np.maximum(times.values, 1e-9)
    y = axis_for("", [share], zero=True, percent=True)
    plot = Plot(
        _epochs({"": times}), y, description="Share of a step spent waiting for data, over epochs"
    )
    plot.line(times.epochs, share, "c2")
    whole = waits.values.sum() / max(times.values.sum(), 1e-9)
    note = f"{100 * whole:.0f} % of the time that was logged went into waiting."
    return Figure("Waiting for data, share of a step", plot.render(), (), note)


def _epochs(series: dict[str, Series]) -> Axis:
    last = max(float(s.epochs.max()) for s in series.values())
    return Axis("epoch", 0, max(last, 1e-6))
