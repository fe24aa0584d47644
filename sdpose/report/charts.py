"""Small charts as inline SVG, which take their colours and fonts from the page's style sheet.

One width for all: the page lays them out in columns, so that text keeps its size on any screen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import ArrayLike

WIDTH = 380
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 38
MAX_POINTS = 360  # of a line: about one a pixel


@dataclass(frozen=True)
class Axis:
    """low < high; on a logarithmic axis both are positive."""

    label: str
    low: float
    high: float
    log: bool = False
    percent: bool = False
    marks: tuple[tuple[float, str], ...] = ()  # instead of round numbers

    def place(self, values: ArrayLike) -> np.ndarray:
        """0 at `low`, 1 at `high`."""
        array = np.asarray(values, np.float64)
        low, high = self.low, self.high
        if self.log:
            array, low, high = np.log(np.maximum(array, self.low)), math.log(low), math.log(high)
        return (array - low) / (high - low)

    def ticks(self) -> list[tuple[float, str]]:
        if self.marks:
            return list(self.marks)
        values = _log_ticks(self.low, self.high) if self.log else _ticks(self.low, self.high)
        return [(v, f"{100 * v:.0f} %" if self.percent else short(v)) for v in values]


def axis_for(
    label: str,
    values: Iterable[ArrayLike],
    *,
    log: bool = False,
    zero: bool = False,
    percent: bool = False,
) -> Axis:
    """An axis that holds all values, with round ends. log: where all are positive; zero: from 0."""
    there = np.concatenate([np.ravel(np.asarray(v, np.float64)) for v in values])
    there = there[np.isfinite(there)]
    low, high = (float(there.min()), float(there.max())) if len(there) else (0.0, 1.0)
    if log and high > 0:
        low = float(there[there > 0].min())
        low, high = (low / 1.1, high * 1.1) if low < high else (low / 2, high * 2)
        return Axis(label, low, high, log=True)
    if zero:
        low = min(low, 0.0)
    if low == high:
        low, high = (0.0, 1.0) if low == 0 else (low - abs(low) / 2, high + abs(high) / 2)
    step = _step(low, high)
    return Axis(
        label, math.floor(low / step) * step, math.ceil(high / step) * step, percent=percent
    )


class Plot:
    """A chart with two axes, drawn in the order of the calls."""

    def __init__(self, x: Axis, y: Axis, *, description: str, height: int = 236) -> None:
        self.x, self.y, self.height = x, y, height
        self.description = description
        self._parts: list[Markup] = []

    def line(self, xs: ArrayLike, ys: ArrayLike, css: str) -> None:
        """Gaps where ys are not finite; longer ones than the screen can show are thinned."""
        xs, ys = thinned(np.asarray(xs, np.float64), np.asarray(ys, np.float64))
        points, pen = [], "M"
        for x, y, there in zip(self._left(xs), self._top(ys), np.isfinite(ys), strict=True):
            if there:
                points.append(f"{pen}{x:.1f} {y:.1f}")
            pen = "L" if there else "M"
        self._parts.append(Markup('<path class="line {}" d="{}"/>').format(css, "".join(points)))

    def dots(
        self, xs: ArrayLike, ys: ArrayLike, css: str, titles: Sequence[str], radius: float = 3
    ) -> None:
        """With a text each, which a pointer shows."""
        places = zip(self._left(xs), self._top(ys), titles, strict=True)
        for x, y, title in places:
            self._parts.append(
                Markup(
                    '<circle class="dot {}" cx="{}" cy="{}" r="{}"><title>{}</title></circle>'
                ).format(css, f"{x:.1f}", f"{y:.1f}", radius, title)
            )

    def bar(self, x: float, width: float, y: float, css: str, title: str) -> None:
        """From the bottom up to y; x is the bar's left, in the axis's units."""
        left, right = self._left([x, x + width])
        top, bottom = self._top([y])[0], self._top([self.y.low])[0]
        self.box(left, top, right - left, bottom - top, css, title)

    def box(
        self, left: float, top: float, width: float, height: float, css: str, title: str
    ) -> None:
        """In the chart's pixels."""
        self._parts.append(
            Markup(
                '<rect class="{}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>'
            ).format(css, *(f"{v:.1f}" for v in (left, top, width, height)), title)
        )

    def text(
        self, x: float, y: float, text: str, *, dx: float = 0, dy: float = 4, css: str = "mark"
    ) -> None:
        """A label, at a place in the axes' units, moved by pixels."""
        left, top = self._left([x])[0] + dx, self._top([y])[0] + dy
        self._parts.append(
            Markup('<text class="{}" x="{}" y="{}">{}</text>').format(
                css, f"{left:.1f}", f"{top:.1f}", text
            )
        )

    def render(self) -> Markup:
        right, bottom = WIDTH - RIGHT, self.height - BOTTOM
        frame = []
        for value, label in self.y.ticks():
            y = self._top([value])[0]
            frame.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            frame.append(f'<text class="tick end" x="{LEFT - 6}" y="{y + 4:.1f}">{label}</text>')
        frame.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
        for value, label in self.x.ticks():
            x = self._left([value])[0]
            frame.append(
                f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
            )
            frame.append(f'<text class="tick mid" x="{x:.1f}" y="{bottom + 17}">{label}</text>')
        labels = Markup('<text class="label mid" x="{}" y="{}">{}</text>').format(
            (LEFT + right) // 2, self.height - 4, self.x.label
        )
        return picture(
            WIDTH, self.height, self.description, Markup("".join(frame)), labels, *self._parts
        )

    def _left(self, values: ArrayLike) -> np.ndarray:
        return LEFT + self.x.place(values) * (WIDTH - RIGHT - LEFT)

    def _top(self, values: ArrayLike) -> np.ndarray:
        return self.height - BOTTOM - self.y.place(values) * (self.height - BOTTOM - TOP)


@dataclass(frozen=True)
class Part:
    """A piece of a horizontal bar."""

    value: float
    css: str
    title: str


def rows(
    labels: Sequence[str],
    bars: Sequence[Sequence[Sequence[Part]]],
    texts: Sequence[str],
    *,
    full: float,
    description: str,
) -> Markup:
    """Labelled rows of one or more horizontal bars, each of stacked parts; `full` is the whole
    width. texts: at the end of every row."""
    left, right, gap = 96, 44, 9
    bar = 9 if max(map(len, bars)) > 1 else 14
    row = max(map(len, bars)) * bar + gap
    width = WIDTH - left - right
    parts = []
    for index, (label, stacks, text) in enumerate(zip(labels, bars, texts, strict=True)):
        top = index * row + 4
        middle = top + (row - gap) / 2 + 4
        parts.append(
            Markup('<text class="name end" x="{}" y="{}">{}</text>').format(left - 8, middle, label)
        )
        parts.append(
            Markup('<text class="tick" x="{}" y="{}">{}</text>').format(
                WIDTH - right + 6, middle, text
            )
        )
        for stack_index, stack in enumerate(stacks):
            y, x = top + stack_index * bar, float(left)
            parts.append(
                Markup('<rect class="track" x="{}" y="{}" width="{}" height="{}"/>').format(
                    left, y, width, bar - 1
                )
            )
            for part in stack:
                extent = 0.0 if math.isnan(part.value) else part.value / full * width
                parts.append(
                    Markup(
                        '<rect class="{}" x="{}" y="{}" width="{}" height="{}">'
                        "<title>{}</title></rect>"
                    ).format(part.css, f"{x:.1f}", y, f"{extent:.1f}", bar - 1, part.title)
                )
                x += extent
    return picture(WIDTH, len(labels) * row + 4, description, *parts)


def picture(width: float, height: float, description: str, *parts: Markup) -> Markup:
    opening = Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}" xmlns="http://www.w3.org/2000/svg">'
    ).format(width, height, escape(description))
    return opening + Markup("").join(parts) + Markup("</svg>")


def thinned(xs: np.ndarray, ys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most MAX_POINTS points: means of neighbours."""
    if len(xs) <= MAX_POINTS:
        return xs, ys
    parts = np.array_split(np.arange(len(xs)), MAX_POINTS)
    return np.array([xs[p].mean() for p in parts]), np.array([ys[p].mean() for p in parts])


def short(value: float) -> str:
    """
    >>> [short(v) for v in (0, 0.25, 1500, 20000, 0.00002, 3)]
    ['0', '0.25', '1500', '20k', '2e-5', '3']
    """
    if value and abs(value) < 1e-4:
        return f"{value:.0e}".replace("e-0", "e-")
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{round(value, 6):g}"


def _step(low: float, high: float) -> float:
    """1, 2 or 5 times a power of ten: four to eight steps."""
    raw = (high - low) / 5
    power = 10 ** math.floor(math.log10(raw))
    return min((factor * power for factor in (1, 2, 5, 10)), key=lambda step: abs(step - raw))


def _ticks(low: float, high: float) -> list[float]:
    step = _step(low, high)
    first = math.ceil(low / step - 1e-9)
    return [step * i for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten; with 2 and 5 times them where there are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
        ticks = [f * 10.0**p for p in powers for f in factors if low <= f * 10.0**p <= high]
        if len(ticks) >= 3:
            return ticks[:: math.ceil(len(ticks) / 7)]
    return ticks or [low, high]
