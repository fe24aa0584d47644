"""What every section of an experiment is made of."""

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
    """`seed: true` is a slip, not the number 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("int_type", "input should be a valid integer")
    return value


Int = Annotated[int, BeforeValidator(_no_boolean)]
PositiveInt = Annotated[Int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
# Above every model that trains, below what takes a machine down: the experiment in a checkpoint is
# used by whoever predicts with that checkpoint.
Layers = Annotated[PositiveInt, Field(le=1000)]
Channels = Annotated[PositiveInt, Field(le=65_536)]
Pixels = Annotated[PositiveInt, Field(le=4096)]
Size = tuple[Pixels, Pixels]
# A folder under work_dirs, an MLflow experiment and a registered model are named after it.
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


# Of a file that training reads.
WeightsFile = Annotated[str, AfterValidator(_no_address)]


def _yaml_switch(value: Any) -> Any:
    """YAML 1.1 reads the bare words on and off as booleans."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


# auto: what is best on the device that the run finds.
Switch = Annotated[Literal["auto", "on", "off"], BeforeValidator(_yaml_switch)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_credentials(cls, value: Any) -> Any:
        """A run's record, a version's manifest and MLflow hold the whole experiment."""
        for text in _texts(value):
            refuse_credentials(text)
        return value


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value as YAML gives it, keys too, however deep."""
    waiting, seen = [value], set()
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict | list | tuple) and id(one) not in seen:
            seen.add(id(one))  # YAML's aliases: the same object, many times
            waiting += [*one.keys(), *one.values()] if isinstance(one, dict) else one
