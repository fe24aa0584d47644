"""The base class and the value types of an experiment's sections."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
)
from pydantic_core import PydanticCustomError

from sdpose.errors import refuse_credentials


def _no_boolean(value: Any) -> Any:
    """Reject booleans: `seed: true` is a mistake, not the number 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("int_type", "input should be a valid integer")
    return value


Int = Annotated[int, BeforeValidator(_no_boolean)]
PositiveInt = Annotated[Int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
# Limits above every trainable model, but low enough to protect a machine: predicting with a
# checkpoint uses the experiment stored in it, which may not be trusted.
Layers = Annotated[PositiveInt, Field(le=1000)]
Channels = Annotated[PositiveInt, Field(le=65_536)]
Pixels = Annotated[PositiveInt, Field(le=4096)]
Size = tuple[Pixels, Pixels]
# It names a folder under work_dirs, an MLflow experiment and a registered model.
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}\Z")
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}$")]


def is_name(value: Any) -> bool:
    return isinstance(value, str) and NAME.match(value) is not None


def _no_address(path: str) -> str:
    if "://" in path:
        raise ValueError(
            f"'{path}' is an address; weights are read from a file of this machine or of a volume: "
            "copy it there first (a registered version: sdpose registry pull), and give its path"
        )
    return path


# The path of a file of weights that a training reads.
WeightsFile = Annotated[str, AfterValidator(_no_address)]


def _yaml_switch(value: Any) -> Any:
    """YAML 1.1 reads the bare words on and off as booleans."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


# auto: the best choice for the device of the run.
Switch = Annotated[Literal["auto", "on", "off"], BeforeValidator(_yaml_switch)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_credentials(cls, value: Any) -> Any:
        """Reject credentials: checkpoints, manifests and MLflow store the whole experiment."""
        for text in _texts(value):
            refuse_credentials(text)
        return value


def _texts(value: Any) -> Iterator[str]:
    """Every text in a parsed YAML value, including keys, at any depth."""
    waiting, seen = [value], set()
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict | list | tuple) and id(one) not in seen:
            seen.add(id(one))  # YAML aliases repeat the same object
            waiting += [*one.keys(), *one.values()] if isinstance(one, dict) else one
