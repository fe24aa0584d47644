"""Parameters and multiply-accumulates of the models: the table that `sdpose models` prints."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sdpose.models import MODELS

# Of the paper (arXiv 2404.03518, tables 1 and 2): parameters in millions, "GFLOPs", AP on COCO
# val. Its GFLOPs are multiply-accumulates of one cycle without the attention's matrix products.
PAPER = {
    "sdpose_t": (4.4, 1.8, 0.697),
    "sdpose_s_v1": (6.6, 2.4, 0.723),
    "sdpose_s_v2": (6.2, 4.7, 0.735),
    "sdpose_b": (13.2, 5.2, 0.737),
}


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates for one image."""

    linear: int
    """Convolutions and linear layers."""
    attention: int
    """Queries times keys, and weights times values."""

    @property
    def total(self) -> int:
        return self.linear + self.attention


@dataclass(frozen=True)
class ModelRow:
    name: str
    parameters: int
    """Trained ones; the fixed position embedding is none."""
    one_cycle: Macs
    all_cycles: Macs
    paper: tuple[float, float, float]
    """Parameters (M), GFLOPs, AP."""


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, image_size: tuple[int, int], *, method: str = "forward") -> Macs:
    """Counts the operations that `method` really dispatches for one image. `image_size` is
    (width, height); `method` is "predict" for one cycle. A model built under
    `torch.device("meta")` is counted without computing anything.
    """
    device = next(model.parameters()).device
    image_13HW = torch.empty(1, 3, *image_size[::-1], device=device)
    counter = FlopCounterMode(display=False)
    # The plain kernel shows attention as the two matrix products that it is (bmm).
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        getattr(model, method)(image_13HW)
    flops = {str(op): count for op, count in counter.get_flop_counts()["Global"].items()}
    attention = flops.pop("aten.bmm", 0)
    return Macs(linear=sum(flops.values()) // 2, attention=attention // 2)


def models_table(image_size: tuple[int, int] = (192, 256)) -> list[ModelRow]:
    """One row for each official model."""
    rows = []
    for name, builder in MODELS.items():
        with torch.device("meta"):
            model = builder()
        rows.append(
            ModelRow(
                name=name,
                parameters=count_parameters(model),
                one_cycle=count_macs(model, image_size, method="predict"),
                all_cycles=count_macs(model, image_size),
                paper=PAPER[name],
            )
        )
    return rows


def format_models_table(rows: list[ModelRow]) -> str:
    """The rows as plain text, the paper's figures beside ours."""
    header = (
        f"{'':<13}{'params (M)':^16}{'G MACs, one cycle':^28}{'all cycles':>12}{'AP':>8}",
        f"{'model':<13}{'ours':>8}{'paper':>8}{'ours':>10}{'paper':>8}{'+ attn':>10}"
        f"{'+ attn':>12}{'paper':>8}",
    )
    lines = [
        f"{row.name:<13}{row.parameters / 1e6:>8.2f}{row.paper[0]:>8.1f}"
        f"{row.one_cycle.linear / 1e9:>10.2f}{row.paper[1]:>8.1f}{row.one_cycle.total / 1e9:>10.2f}"
        f"{row.all_cycles.total / 1e9:>12.2f}{row.paper[2]:>8.3f}"
        for row in rows
    ]
    notes = (
        "MACs: multiply-accumulates for one 256x192 image; inference runs one cycle.",
        "The paper's GFLOPs are MACs without the attention's matrix products (+ attn: with them).",
    )
    return "\n".join([*header, *lines, "", *notes])
