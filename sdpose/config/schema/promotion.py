"""`registry` and `promotion`: the registered model of a run, and the conditions for promoting its
version to a channel."""

from __future__ import annotations

from pydantic import Field

from sdpose.config.schema.section import Name, NonNegativeFloat, PositiveFloat, Probability, Section


class Registry(Section):
    model: Name | None = Field(
        None,
        description="model that the run becomes a version of; default: exp_name of the first base, "
        "so that all variants of an experiment and all trials of a sweep are versions of one model",
        examples=["warehouse"],
    )


class Promotion(Section):
    min_ap: Probability | None = Field(
        None, description="AP that a version must reach, 0..1", examples=[0.7]
    )
    margin: NonNegativeFloat = Field(
        0.0,
        description="AP by which it must be better than the channel's present version, on the same "
        "dataset and evaluation settings; 0: not worse",
        examples=[0.002],
    )
    max_latency_ms: PositiveFloat | None = Field(
        None,
        description="median milliseconds for one crop on the machine that promotes",
        examples=[20.0],
    )
    max_size_mb: PositiveFloat | None = Field(
        None, description="size of the weights, 10^6 bytes", examples=[30.0]
    )
