"""Under which names trackers get a run's figures."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sdpose.config import Experiment


def unweighted_losses(values: Mapping[str, float], experiment: Experiment) -> dict[str, float]:
    """The distillation losses as if their loss_weight were 1: with the usual 1e-5 their curves
    cannot be read. A loss whose weight is 0 is left out: it is 0 whatever the tokens are."""
    head = experiment.model.keypoint_head
    losses = {"vis_dist_loss": head.loss_vis_token_dist, "kpt_dist_loss": head.loss_kpt_token_dist}
    return {
        f"{name}_unweighted": values[name] / loss.loss_weight
        for name, loss in losses.items()
        if loss is not None and loss.loss_weight and name in values
    }


def tracked_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Names of metrics without the characters that MLflow refuses, and without spaces.

    >>> tracked_metrics({"AP": 0.5, "AP .75": 0.25, "AR (M)": 0.0})
    {'val/AP': 0.5, 'val/AP_75': 0.25, 'val/AR_M': 0.0}
    >>> tracked_metrics({"AR (left hand)": 0.5, "PCKh": 0.25})
    {'val/AR_left_hand': 0.5, 'val/PCKh': 0.25}
    """
    short = {" .5": "_50", " .75": "_75", " (": "_", ")": "", " ": "_"}
    tracked = {}
    for name, value in metrics.items():
        for part, replacement in short.items():
            name = re.sub(re.escape(part) + r"(?!\d)", replacement, name)
        tracked[f"val/{name}"] = value
    return tracked
