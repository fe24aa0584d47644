"""Means over seeds, and whether two of them differ by more than chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """One figure over the seeds of a configuration."""

    mean: float
    deviation: float | None  # sample standard deviation; None of one value
    count: int

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """
        >>> Spread.of([1.0, 3.0])
        Spread(mean=2.0, deviation=1.4142135623730951, count=2)
        """
        deviation = stdev(values) if len(values) > 1 else None
        return Spread(fmean(values), deviation, len(values))


@dataclass(frozen=True)
class Difference:
    """second - first, and what can be said of it."""

    value: float
    half_width: float | None
    """Of the confidence interval; None: too few seeds to know the spread."""
    verdict: Literal["better", "worse", "within noise", "unknown"]


def difference(first: Spread, second: Spread, confidence: float = CONFIDENCE) -> Difference:
    """Welch's interval for the difference of two means (B. L. Welch, Biometrika 34, 1947).

    With one seed on one side, the other side's spread is taken for both (and its degrees of
    freedom); with one seed on both sides nothing can be said.

    >>> difference(Spread(0.70, 0.002, 3), Spread(0.71, 0.002, 3)).verdict
    'better'
    >>> difference(Spread(0.70, 0.002, 3), Spread(0.702, 0.002, 3)).verdict
    'within noise'
    >>> difference(Spread(0.70, None, 1), Spread(0.71, None, 1)).verdict
    'unknown'
    """
    from scipy.stats import t  # type: ignore[import-untyped]

    value = second.mean - first.mean
    known = [s for s in (first, second) if s.deviation is not None]
    if not known:
        return Difference(value, None, "unknown")
    variances = [
        ((s if s.deviation is not None else known[0]).deviation or 0.0) ** 2 / s.count
        for s in (first, second)
    ]
    error = math.sqrt(sum(variances))
    if len(known) == 2 and error > 0:
        freedom = sum(variances) ** 2 / sum(
            v**2 / (s.count - 1) for v, s in zip(variances, known, strict=True)
        )
    else:
        freedom = sum(s.count - 1 for s in known)
    half_width = float(t.ppf(0.5 + confidence / 2, freedom)) * error
    if abs(value) <= half_width:
        return Difference(value, half_width, "within noise")
    return Difference(value, half_width, "better" if value > 0 else "worse")
