"""`promotion`: what a model version must show before a channel of the registry takes it."""

from __future__ import annotations

from pydantic import Field

from sdpose.config.schema.section import NonNegativeFloat, PositiveFloat, Probability, Section


class Promotion(Section):
    min_ap: Probability | None = Field(None, description="AP that a version must reach, 0..1")
    margin: NonNegativeFloat = Field(
        0.0,
        description="AP by which it must be better than the channel's present version, on the same "
        "dataset and evaluation settings; 0: not worse",
    )
    max_latency_ms: PositiveFloat | None = Field(
        None, description="median milliseconds for one crop on the machine that promotes"
    )
    max_size_mb: PositiveFloat | None = Field(None, description="size of the weights, 10^6 bytes")
