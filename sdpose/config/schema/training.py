"""`optimizer`, `optimizer_config`, `lr_config`, `amp` and `ema`: the optimisation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from sdpose.config.schema.section import (
    Int,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Probability,
    Section,
    Switch,
)


class Optimizer(Section):
    type: Literal["Adam", "AdamW", "SGD"] = Field(
        "Adam", description="AdamW is Adam with a weight decay apart from the gradient"
    )
    lr: PositiveFloat = Field(
        1e-3, description="for the global batch; it is not scaled for you", examples=[0.0005]
    )
    weight_decay: NonNegativeFloat = Field(
        0.0, description="of all weights; Adam, SGD: L2 penalty; AdamW: x lr", examples=[0.01]
    )
    momentum: Probability = Field(
        0.9, description="SGD; the other types read betas", examples=[0.95]
    )
    betas: tuple[Probability, Probability] = Field(
        (0.9, 0.999),
        description="Adam, AdamW: averages of the gradient and of its square",
        examples=[[0.9, 0.98]],
    )
    fused: Switch = Field("auto", description="one kernel for all parameters; auto: on GPUs")


class GradClip(Section):
    max_norm: PositiveFloat = Field(
        description="gradients are scaled down to this norm", examples=[1.0]
    )
    norm_type: PositiveFloat = Field(2.0, description="p of the norm; 2: Euclidean", examples=[1.0])


class OptimizerConfig(Section):
    grad_clip: GradClip | None = Field(
        None, description="scale large gradients down; null: off", examples=[{"max_norm": 1.0}]
    )
    cumulative_iters: PositiveInt = Field(
        1,
        description="batches of samples_per_gpu whose gradients make one step: the global batch is "
        "samples_per_gpu x this x processes, and iterations, schedule and logs count steps",
        examples=[2],
    )


Amp = Annotated[
    Literal["auto", "bf16", "fp16", "off"],
    BeforeValidator(lambda value: "off" if value is False else value),  # YAML 1.1's `off`
]


class Ema(Section):
    """An exponential moving average of the weights; it is evaluated and saved as `state_dict`."""

    decay: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.9998, description="share of the average that stays at each step", examples=[0.999]
    )
    warm_up: Annotated[float, Field(ge=1)] = Field(
        100,
        description="the share is at most (1 + steps) / (this + steps), as in mmcv's EMAHook; "
        "1: no warm-up",
        examples=[1.0],
    )


class LrConfig(Section):
    policy: Literal["step", "cosine"] = Field(
        "step",
        description="step: lr x gamma at each epoch of `step`; cosine: half a cosine to the end",
    )
    step: tuple[PositiveInt, ...] = Field(
        (200, 260), description="epochs after which lr x gamma", examples=[[70, 90]]
    )
    gamma: PositiveFloat = Field(0.1, description="step: the factor", examples=[0.5])
    min_lr_ratio: Probability = Field(0.0, description="cosine: final lr / lr", examples=[0.01])
    warmup: Literal["linear"] | None = Field(
        "linear", description="lr rises to its value over warmup_iters; null: no warm-up"
    )
    warmup_iters: Annotated[Int, Field(ge=0)] = Field(
        500, description="iterations that the warm-up takes", examples=[1000]
    )
    warmup_ratio: Probability = Field(
        0.001, description="lr of the first iteration / lr", examples=[0.1]
    )

    @model_validator(mode="before")
    @classmethod
    def _mmcv_name(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("policy") == "CosineAnnealing":
            value = value | {"policy": "cosine"}
        return value

    @model_validator(mode="after")
    def _increasing(self) -> LrConfig:
        if list(self.step) != sorted(set(self.step)):
            raise ValueError(f"step must increase: {list(self.step)}")
        return self
