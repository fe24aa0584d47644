"""The weaker trials of a sweep stop early: asynchronous successive halving.

Li et al., "A System for Massively Parallel Hyperparameter Tuning" (MLSys 2020), in the variant that
stops a trial where theirs pauses it. After min_epochs, and whenever reduction_factor times as many
have passed, a trial goes on if it is among the best 1/reduction_factor of those that have come so
far. None waits for another, so the first ones to come go on whatever they have reached.
"""

from __future__ import annotations

import logging
import math
import re

from pydantic import BaseModel, Field, ValidationError

from sdpose.config import Experiment
from sdpose.errors import UserError
from sdpose.storage import DamagedObjectError, ObjectNotFoundError, Store, open_store

logger = logging.getLogger(__name__)


class Record(BaseModel):
    """What a trial leaves at a rung."""

    ap: float = Field(alias="AP", ge=-1, le=1)
    place: int = 0
    of: int = 0
    stopped: str = ""  # why it ended there


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


def reason_to_stop(experiment: Experiment, epoch: int, ap: float) -> str:
    """Why the trial ends with this evaluation; "" if it goes on.

    A decision is written down, and stands when a resumed trial comes to the same epoch again. A
    folder that cannot be reached, or a record that is damaged, stops nobody.
    """
    settings = experiment.early_stopping
    if settings is None or epoch not in rungs(experiment):
        return ""
    try:
        store = open_store(settings.folder)
        rung, key = f"epoch_{epoch}", f"epoch_{epoch}/{experiment.exp_name}.json"
        known = _record(store, key) if store.exists(key) else None
        if known is not None and known.ap == ap:
            return known.stopped
        records = [_record(store, other) for other in store.list(rung) if other != key]
        others = [record.ap for record in records if record is not None]
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
        record = Record(AP=ap, place=place, of=arrived, stopped=reason)
        store.put(key, (record.model_dump_json(by_alias=True) + "\n").encode())
    except UserError as error:
        logger.warning(f"early_stopping: {error}; this trial goes on")
        return ""
    return reason


def remove_records(experiment: Experiment) -> None:
    """Of all trials that meet where this one does: they are trained again."""
    if experiment.early_stopping is not None:
        store = open_store(experiment.early_stopping.folder)
        for key in [key for key in store.list("") if re.fullmatch(r"epoch_\d+/[^/]+\.json", key)]:
            store.delete(key)


def _record(store: Store, key: str) -> Record | None:
    try:
        return Record.model_validate_json(store.read(key))
    except (ValidationError, ObjectNotFoundError, DamagedObjectError):
        logger.warning(f"early_stopping: {store.uri(key)} is damaged, and does not count")
        return None
