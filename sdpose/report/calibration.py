"""Calibration of scores: reliability diagrams and the expected calibration error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Reliability:
    """B bins of equal width over 0..1; empty ones have NaN means."""

    edges: Array  # [B+1]
    counts: NDArray[np.int64]  # [B]
    score: Array  # [B], mean
    outcome: Array  # [B], mean
    error: float  # the expected calibration error, 0..1; NaN without data


def reliability(scores_N: ArrayLike, outcomes_N: ArrayLike, bins: int = 10) -> Reliability:
    """Scores (clipped to 0..1) against outcomes in 0..1: what they should have foretold.

    The expected calibration error is sum over bins of n / N |mean outcome - mean score| (Naeini et
    al., AAAI 2015; Guo et al., ICML 2017, equation 5).

    >>> diagram = reliability([0.1, 0.9, 0.9], [0, 1, 0.5], bins=2)
    >>> diagram.counts.tolist(), diagram.outcome.tolist(), round(diagram.error, 3)
    ([1, 2], [0.0, 0.75], 0.133)
    """
    scores = np.clip(np.asarray(scores_N, np.float64), 0, 1)
    outcomes = np.asarray(outcomes_N, np.float64)
    index = np.minimum((scores * bins).astype(int), bins - 1)
    counts = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        score = np.bincount(index, scores, bins) / counts
        outcome = np.bincount(index, outcomes, bins) / counts
    gaps = np.nan_to_num(np.abs(outcome - score))
    error = float((counts * gaps).sum() / len(scores)) if len(scores) else float("nan")
    return Reliability(np.linspace(0, 1, bins + 1), counts, score, outcome, error)
