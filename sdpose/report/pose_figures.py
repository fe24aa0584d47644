"""Figures of an evaluation: precision, keypoint errors, calibration."""

from __future__ import annotations

import numpy as np

from sdpose.config.schema import Skeleton
from sdpose.report.calibration import Reliability
from sdpose.report.charts import Axis, Part, Plot, axis_for, rows
from sdpose.report.curves import SIZE_EDGES, Curves, mean
from sdpose.report.keypoint_errors import ERROR_KINDS, KINDS, UNLABELLED, Matches
from sdpose.report.training_figures import Figure

LABELLED = (0, 5, 9)  # of the OKS thresholds: 0.50, 0.75, 0.95


def precision_recall(curves: Curves) -> Figure:
    plot = Plot(
        Axis("recall", 0, 1),
        Axis("", 0, 1),
        description="Precision over recall, one curve for each OKS threshold from 0.50 to 0.95",
    )
    for index, (threshold, values) in enumerate(
        zip(curves.oks_thresholds, curves.precision, strict=True)
    ):
        # COCO fills up with zeros beyond the highest recall that is reached.
        reached = np.flatnonzero(values > 0)
        end = int(reached[-1]) + 1 if len(reached) else 1
        plot.line(curves.recalls[:end], values[:end], f"oks oks{index}")
        if index in LABELLED:
            x, y = curves.recalls[end - 1], values[end - 1]
            plot.text(min(x, 0.91), max(y, 0.04), f"{threshold:.2f}", dx=5, dy=13 if y > 0.5 else 4)
    aps = [mean(values) for values in curves.precision]
    note = "AP at OKS " + ", ".join(
        f"{curves.oks_thresholds[i]:.2f}: {aps[i]:.3f}" for i in LABELLED
    )
    legend = [("oks oks0", "OKS 0.50"), ("oks oks9", "OKS 0.95")]
    return Figure("Precision and recall by OKS", plot.render(), legend, note + ".")


def by_joint(curves: Curves, skeleton: Skeleton) -> Figure:
    labels, bars, texts = [], [], []
    for name, joints in joints_by_part(skeleton):
        labels.append(name)
        values = [float(curves.joint_ap[j]) for j in joints]
        bars.append(
            [
                [Part(v, skeleton.sides[j] or "middle", f"{readable(skeleton, j)}: AP {v:.3f}")]
                for j, v in zip(joints, values, strict=True)
            ]
        )
        average = mean(np.array(values))
        texts.append("–" if np.isnan(average) else f"{average:.3f}")
    svg = rows(labels, bars, texts, full=1.0, description="Average precision of each joint")
    legend = [("left", "left"), ("right", "right"), ("middle", middle_legend(skeleton))]
    return Figure("AP by joint", svg, legend, "Numbers: mean of left and right.")


def by_size(curves: Curves) -> Figure:
    names = [
        f"{low:g}+" if high == SIZE_EDGES[-1] else f"{low:g}–{high:g}"
        for low, high, *_ in curves.sizes
    ]
    bars, texts = [], []
    for name, (_, _, persons, ap) in zip(names, curves.sizes, strict=True):
        bars.append([[Part(ap, "fill1", f"{name} pixels: AP {ap:.3f}, {persons} persons")]])
        texts.append(f"{ap:.3f}" if np.isfinite(ap) else "–")
    labels = [f"{n} ({s[2]})" for n, s in zip(names, curves.sizes, strict=True)]
    svg = rows(labels, bars, texts, full=1.0, description="Average precision by size of person")
    note = (
        "Size: square root of the person's area, pixels (number of persons). COCO's medium is "
        "32–96, its large 96+."
    )
    return Figure("AP by size of person", svg, (), note)


def errors_by_joint(matches: Matches, skeleton: Skeleton) -> Figure:
    labels, bars, texts = [], [], []
    for name, joints in joints_by_part(skeleton):
        labels.append(name)
        stacks = []
        for joint in joints:
            kinds = matches.kinds[:, joint]
            total = max(int((kinds != UNLABELLED).sum()), 1)
            title = readable(skeleton, joint)
            stacks.append(
                [
                    Part(
                        float((kinds == kind).sum() / total),
                        KINDS[kind],
                        f"{title}: {KINDS[kind]} {100 * (kinds == kind).sum() / total:.1f} % "
                        f"of {total}",
                    )
                    for kind in ERROR_KINDS
                ]
            )
        bars.append(stacks)
        share = (matches.kinds[:, joints] > 0).sum() / max(
            (matches.kinds[:, joints] != UNLABELLED).sum(), 1
        )
        texts.append(f"{100 * share:.0f} %")
    svg = rows(labels, bars, texts, full=1.0, description="Share of each joint's errors by kind")
    note = "Of the annotated joints of matched poses; upper bar left, lower bar right."
    return Figure("Errors by joint", svg, [(KINDS[k], KINDS[k]) for k in ERROR_KINDS], note)


def reliability_figure(diagram: Reliability, title: str, outcome: str) -> Figure:
    plot = Plot(
        Axis("score", 0, 1),
        Axis("", 0, 1),
        description=f"{title}: mean outcome in each bin of the score",
    )
    width = float(diagram.edges[1] - diagram.edges[0])
    for low, count, score, value in zip(
        diagram.edges, diagram.counts, diagram.score, diagram.outcome, strict=False
    ):
        if count:
            text = f"score {score:.2f}: {outcome} {value:.2f} ({count})"
            plot.bar(float(low) + width * 0.06, width * 0.88, float(value), "fill1", text)
    plot.line([0, 1], [0, 1], "ideal")
    there = diagram.counts > 0
    sizes = 2 + 5 * np.sqrt(diagram.counts[there] / diagram.counts.max(initial=1))
    for x, y, size, count in zip(
        diagram.score[there], diagram.outcome[there], sizes, diagram.counts[there], strict=True
    ):
        text = f"score {x:.2f}: {outcome} {y:.2f} ({count})"
        plot.dots([x], [y], "c2", [text], radius=round(float(size), 1))
    note = f"Expected calibration error {diagram.error:.3f}; {diagram.counts.sum()} in all."
    legend = [("fill1", outcome), ("c2 disc", "at the mean score; area: how many")]
    return Figure(title, plot.render(), legend, note)


def oks_histogram(matches: Matches) -> Figure:
    counts, edges = np.histogram(matches.oks, bins=20, range=(0, 1))
    plot = Plot(
        Axis("OKS", 0, 1),
        axis_for("", [counts], zero=True),
        description="How many matched poses have which OKS",
    )
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        text = f"OKS {low:.2f}–{high:.2f}: {count} poses"
        plot.bar(low + 0.003, high - low - 0.006, float(count), "fill1", text)
    median = float(np.median(matches.oks)) if len(matches.oks) else float("nan")
    return Figure("Poses by OKS", plot.render(), (), f"Median {median:.3f}.")


def joints_by_part(skeleton: Skeleton) -> list[tuple[str, list[int]]]:
    """Group the keypoints of a skeleton: nose: [0], eyes: [left, right], ..."""
    parts: dict[int, tuple[str, list[int]]] = {}
    for joint, partner in enumerate(skeleton.flip_index):
        if partner == joint:
            parts[joint] = readable(skeleton, joint), [joint]
        elif skeleton.sides[joint] == "left":
            first = min(joint, partner)
            parts[first] = (
                _both(readable(skeleton, joint), readable(skeleton, partner)),
                [
                    joint,
                    partner,
                ],
            )
    return [parts[first] for first in sorted(parts)]


def _both(left: str, right: str) -> str:
    """The words that the names of a pair share, in the plural.

    >>> _both("left eye", "right eye"), _both("L1", "R1")
    ('eyes', 'L1, R1')
    """
    others = right.split()
    words = [word for word in left.split() if word in others]
    if not words:
        return f"{left}, {right}"
    return " ".join(words) + "s" * words[-1].isascii()


def readable(skeleton: Skeleton, joint: int) -> str:
    """Return a keypoint's name for people: "left eye"."""
    return skeleton.keypoints[joint].replace("_", " ")


def middle_legend(skeleton: Skeleton) -> str:
    middle = [readable(skeleton, j) for j, side in enumerate(skeleton.sides) if not side]
    return middle[0] if len(middle) == 1 else "neither"
