"""What may differ between two starts of one run, and what differs."""

from __future__ import annotations

import contextlib
from typing import Any

from sdpose.config import Experiment, flatten, parse_experiment
from sdpose.config.document import parse_yaml
from sdpose.config.schema import Promotion
from sdpose.errors import UserError

# Keys that may differ between two starts of one run: where things lie, how often they are saved and
# what is asked of the result, not what is computed.
PLACES = (
    "work_dir",
    "data_root",
    "data.workers_per_gpu",
    "resume_from",
    "checkpoint_config.mirror",
    "checkpoint_config.interval_minutes",
    "registry.model",
    *(f"promotion.{key}" for key in Promotion.model_fields),
    "early_stopping.folder",
)
LONGEST_VALUE = 300


def stored_experiment(document: str | bytes) -> dict[str, Any]:
    """A work dir's experiment, with today's defaults where it can be read."""
    try:
        return parse_experiment(document).model_dump(mode="json")
    except UserError:  # written under another schema, or edited
        with contextlib.suppress(UserError):
            return parse_yaml(document, "experiment.yaml")
        return {}


def differences(document: str | bytes, experiment: Experiment) -> list[str]:
    """`key: stored -> ours` for every value that differs from a stored experiment's, places
    aside.

    A skeleton that is `auto` is not compared: the process that trains reads it, and compares it.
    """
    theirs = flatten(stored_experiment(document))
    ours = flatten(experiment.model_dump(mode="json"))
    return [
        f"{key}: {_short(theirs.get(key, 'absent'))} -> {_short(ours.get(key, 'absent'))}"
        for key in dict.fromkeys([*theirs, *ours])
        if key not in PLACES
        and theirs.get(key, ...) != ours.get(key, ...)
        and not (experiment.skeleton is None and key.partition(".")[0] == "skeleton")
    ]


def _short(value: Any) -> str:
    """A skeleton can have a thousand keypoints."""
    text = str(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]} ..."
