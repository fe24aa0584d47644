"""The weaker trials of a sweep stop early: asynchronous successive halving.

Li et al., "A System for Massively Parallel Hyperparameter Tuning" (MLSys 2020), in the variant that
stops a trial where theirs pauses it. After min_epochs, and whenever reduction_factor times as many
have passed, a trial goes on if it is among the best 1/reduction_factor of those that have come so
far. None waits for another, so the first ones to come go on whatever they have reached.
"""

from __future__ import annotations

import json
import math

from sdpose.config import Experiment
from sdpose.documents import parse_json
from sdpose.errors import UserError
from sdpose.storage import Store, open_store
from sdpose.training.records import Say


def rungs(experiment: Experiment) -> list[int]:
    """The epochs, in order, whose evaluation may end the trial; the last epoch is none of them."""
    settings = experiment.early_stopping
    if settings is None:
        return []
    found, due, interval = [], settings.min_epochs, experiment.evaluation.interval
    while (epoch := math.ceil(due / interval) * interval) < experiment.total_epochs:
        found.append(epoch)
        due *= settings.reduction_factor
    return list(dict.fromkeys(found))


def reason_to_stop(experiment: Experiment, epoch: int, ap: float, say: Say) -> str:
    """Why the trial ends with this evaluation; "" if it goes on.

    A decision is written down, and stands when a resumed trial comes to the same epoch again. A
    folder that cannot be reached stops nobody.
    """
    settings = experiment.early_stopping
    if settings is None or epoch not in rungs(experiment):
        return ""
    try:
        store = open_store(settings.folder)
        rung, key = f"epoch_{epoch}", f"epoch_{epoch}/{experiment.exp_name}.json"
        known = parse_json(store.read(key), store.uri(key)) if store.exists(key) else None
        if known is not None and known["AP"] == ap:
            return str(known["stopped"])
        others = [_ap(store, other) for other in store.list(rung) if other != key]
        place = 1 + sum(other > ap for other in others)
        arrived = len(others) + 1
        reason = ""
        if place > math.ceil(arrived / settings.reduction_factor) and (
            arrived >= settings.reduction_factor
        ):
            reason = (
                f"AP {ap:.4f} after {epoch} epochs is place {place} of {arrived} trials that have "
                f"come so far; one of {settings.reduction_factor} goes on"
            )
        record = {"AP": ap, "place": place, "of": arrived, "stopped": reason}
        store.put(key, (json.dumps(record) + "\n").encode())
    except UserError as error:
        say(f"warning: early_stopping: {error}; this trial goes on")
        return ""
    return reason


def _ap(store: Store, key: str) -> float:
    return float(parse_json(store.read(key), store.uri(key))["AP"])
