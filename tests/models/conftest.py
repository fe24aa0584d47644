from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from reference_weights import official_state, reference_table, smooth_fans
from torch import Tensor

from sdpose.models import MODELS, SDPose
from sdpose.models.names import convert_official, to_official

ReferenceModel = Callable[[str, str], SDPose]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def reference_state(reference_dir: Path) -> Callable[[str, str], dict[str, Tensor]]:
    """(model, variant) to a state dict under the official names."""

    @lru_cache
    def state(name: str, variant: str) -> dict[str, Tensor]:
        if variant == "fans":
            return smooth_fans(reference_dir, state(name, "fan"))
        table = reference_table(reference_dir, name)
        return official_state(table, variant, to_official(MODELS[name]().state_dict()))

    return state


@pytest.fixture(scope="session")
def reference_model(reference_state: Callable[[str, str], dict[str, Tensor]]) -> ReferenceModel:
    """(model, variant) to a new model with the reference's weights, in eval mode."""

    def build(name: str, variant: str) -> SDPose:
        model = MODELS[name]()
        model.load_state_dict(convert_official(reference_state(name, variant)))
        return model.eval()

    return build
