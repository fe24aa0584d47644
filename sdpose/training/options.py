"""Precision, compilation and memory format of a step: resolves `auto` for the device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from sdpose.config import Experiment
from sdpose.data.device import on_device
from sdpose.data.samples import Batch
from sdpose.errors import UserError


@dataclass(frozen=True)
class StepOptions:
    """Resolved options of a step, without `auto`."""

    device: torch.device
    image_size_wh: tuple[int, int]
    amp: torch.dtype | None  # of autocast; None: float32 throughout
    compile: bool
    channels_last: bool
    fused: bool

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        if self.amp is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.amp)

    def scaler(self) -> torch.amp.GradScaler | None:
        """Return a scaler for fp16, whose gradients underflow; bf16 has float32's exponent."""
        return torch.amp.GradScaler(self.device.type) if self.amp is torch.float16 else None

    def on_device(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield a loader's batches in the form of the step's input, see `device.on_device`."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return on_device(batches, self.device, self.image_size_wh, layout)

    def prepare(self, model: nn.Module) -> None:
        """Set memory format and compilation in place; parameters keep their names."""
        if self.channels_last:
            model.to(memory_format=torch.channels_last)
        if self.compile:
            model.compile()  # at the first step

    def names(self) -> Iterable[tuple[str, bool]]:
        """Names of the options, and whether they are on, for the first line of the log."""
        amp = {None: "amp", torch.bfloat16: "amp bf16", torch.float16: "amp fp16"}[self.amp]
        yield amp, self.amp is not None
        yield "compile", self.compile
        yield "channels_last", self.channels_last
        yield "fused optimizer", self.fused


def step_options(experiment: Experiment, device: torch.device) -> StepOptions:
    """Resolve the options of an experiment for a device; `auto` is off on a CPU, where results
    are to stay the same bit for bit.

    Raises:
        UserError: the GPU does not support bf16, which the experiment requires.
    """
    on_gpu = device.type == "cuda"
    # Without emulation: older GPUs compute bf16 in float32, slower than float32 itself.
    has_bf16 = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    if experiment.amp == "bf16" and on_gpu and not has_bf16:
        raise UserError(
            f"amp: bf16, but {torch.cuda.get_device_name(device)} does not compute in bf16; "
            "set amp to fp16, off or auto"
        )
    chosen = experiment.amp
    if chosen == "auto":
        chosen = "bf16" if has_bf16 else "off"
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}
    auto = {"auto": on_gpu, "on": True, "off": False}
    return StepOptions(
        device=device,
        image_size_wh=experiment.data_cfg.image_size,
        amp=dtypes[chosen],
        compile=auto[experiment.compile],
        channels_last=auto[experiment.channels_last],
        fused=auto[experiment.optimizer.fused],
    )
