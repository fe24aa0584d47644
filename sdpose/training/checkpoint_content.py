"""Checks of a training checkpoint's content before a run continues from it.

Checksums prove that the bytes are those that were written; these checks, that training can continue
from them: from NaN weights a run would never recover, although an earlier checkpoint is good.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator
from torch import Tensor

Count = Annotated[int, Field(ge=0)]
Figures = dict[str, FiniteFloat]


class Position(BaseModel):
    """The position of a checkpoint; also the content of latest.json in a mirror."""

    model_config = ConfigDict(strict=True, extra="ignore")

    epoch: Count  # epochs completed
    iteration: Count  # steps done in the whole run

    @property
    def order(self) -> tuple[int, int]:
        return self.epoch, self.iteration


class Meta(Position):
    """`meta` as `loop._content` writes it; keys that earlier versions lacked have defaults."""

    iteration_in_epoch: Count = 0
    global_batch: Count = 0
    iterations_per_epoch: Count = 0
    evaluated_epoch: Count = 0
    metrics: Figures = {}
    best_epoch: Count = 0
    best_metrics: Figures = {}
    sums: Figures = {}
    seconds: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    stopped: str = ""
    experiment: str = ""
    dataset_digest: str = ""
    mlflow_run_id: str | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> Meta:
        length = self.iterations_per_epoch
        if length and self.iteration_in_epoch > length:
            raise ValueError(f"iteration_in_epoch {self.iteration_in_epoch} of {length}")
        if length and self.iteration != self.epoch * length + self.iteration_in_epoch:
            raise ValueError(
                f"iteration {self.iteration} is not that of epoch {self.epoch}, "
                f"{self.iteration_in_epoch} of {length}"
            )
        if self.evaluated_epoch > self.epoch:
            raise ValueError(f"evaluated_epoch {self.evaluated_epoch} of {self.epoch} epochs")
        for name, epoch, metrics in (
            ("evaluated_epoch", self.evaluated_epoch, self.metrics),
            ("best_epoch", self.best_epoch, self.best_metrics),
        ):
            if epoch and "AP" not in metrics:
                raise ValueError(f"{name} {epoch} has no AP")
        return self


def problem_of(checkpoint: Mapping[str, Any]) -> str | None:
    """Return why training cannot continue from a checkpoint; None if it can."""
    try:
        Meta.model_validate(checkpoint["meta"])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"meta{'.' * bool(where)}{where}: {first['msg'].removeprefix('Value error, ')}"
    if "state_dict" not in checkpoint:
        return "it has no state_dict"
    for key in ("state_dict", "training_state_dict"):
        weights = checkpoint.get(key, {})
        if not isinstance(weights, dict) or not all(
            isinstance(t, Tensor) for t in weights.values()
        ):
            return f"{key} is not made of tensors"
    return _problem_of_optimizer(checkpoint["optimizer"]) or next(_not_finite(checkpoint), None)


def _problem_of_optimizer(optimizer: Any) -> str | None:
    if not isinstance(optimizer, dict) or not isinstance(optimizer.get("state"), dict):
        return "optimizer holds no state"
    for number, values in optimizer["state"].items():
        if not isinstance(number, int) or not isinstance(values, dict):
            return "optimizer.state is not one of parameters"
        for name, value in values.items():
            if value is not None and not isinstance(value, Tensor | int | float):
                return f"optimizer.state.{number}.{name} is not a number or tensor"
    return None


def _not_finite(checkpoint: Mapping[str, Any]) -> Iterator[str]:
    parts = ("state_dict", "training_state_dict", "optimizer", "scaler", "usual_loss")
    for part in parts:
        for name, value in _numbers(part, checkpoint.get(part)):
            if not torch.as_tensor(value).isfinite().all():
                yield f"{name} is not finite"


def _numbers(name: str, value: Any) -> Iterator[tuple[str, Tensor | float]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _numbers(f"{name}.{key}", item)
    elif isinstance(value, Tensor | float):
        yield name, value
