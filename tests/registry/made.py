"""What the registry's tests register."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sdpose.config import Experiment, dump_experiment, parse_experiment
from sdpose.models import build_model
from sdpose.registry.versions import ModelVersion

Register = Callable[..., ModelVersion]


def write_checkpoint(path: Path, experiment: Experiment, seed: int) -> Path:
    torch.manual_seed(seed)
    model = build_model(experiment.model)
    for module in model.modules():  # the official initial weights see almost nothing
        if isinstance(module, torch.nn.Conv2d):
            module.reset_parameters()
    meta = {"format": "sdpose/1", "epoch": seed, "experiment": dump_experiment(experiment)}
    torch.save({"state_dict": model.state_dict(), "meta": meta}, path)
    return path


def with_promotion(experiment: Experiment, **rules: Any) -> Experiment:
    return parse_experiment(experiment.model_dump(mode="json") | {"promotion": rules})
