"""A sweep: one experiment, many values."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from sdpose.config.schema.section import Int, Name, PositiveInt, Section

Value = Any  # whatever the key takes; the experiment's own schema checks it
Settings = dict[str, Value]


class Limits(Section):
    parallel: PositiveInt = Field(1, description="trials that train at the same time")
    trials: Annotated[PositiveInt, Field(le=10_000)] = Field(
        64, description="more of them are taken for a slip and refused"
    )


class Halving(Section):
    min_epochs: PositiveInt = Field(
        10, description="epochs before a trial can be stopped", examples=[5]
    )
    reduction_factor: Annotated[Int, Field(ge=2)] = Field(
        3,
        description="one of so many trials goes on, after min_epochs and each time that many more",
        examples=[2],
    )


class EarlyStopping(Halving):
    """The settings of a trial that takes part in early stopping."""

    folder: str = Field(
        description="where the trials meet: a folder or s3://bucket/prefix",
        examples=["s3://bucket/rungs"],
    )


class Sweep(Section):
    """The document `pipelines/sweeps/NAME.yaml`; keys of an experiment are dotted paths."""

    name: Name
    base: str = Field(description="an experiment's name, or its file")
    set: Settings = Field({}, description="values that all trials share")
    keys: dict[str, str | tuple[str, ...]] = Field(
        {}, description="short names for a key, or for several that take the same value"
    )
    grid: dict[str, tuple[Value, ...]] = Field(
        {}, description="values of each key; every combination is a trial"
    )
    trials: tuple[Settings, ...] = Field((), description="more trials, one by one")
    seeds: tuple[Annotated[Int, Field(ge=0, lt=2**31)], ...] = Field(
        (), description="each trial runs once for each; default: the experiment's own seed"
    )
    early_stopping: Halving | None = Field(
        None,
        description="asynchronous successive halving (Li et al. 2020); null: all run to the end",
    )
    limits: Limits = Limits()
