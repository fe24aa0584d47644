from __future__ import annotations

import pytest
import torch

from sdpose.config import load_experiment
from sdpose.training.optim import build_optimizer, build_schedule, load_optimizer_state

# 1000 iterations an epoch: iteration 200_000 is the first one of the 201st epoch.
STEP_NUMBERS = {
    0: 1e-6,  # lr x warmup_ratio
    1: 1e-3 * (1 - (1 - 1 / 500) * 0.999),
    250: 1e-3 * 0.5005,
    499: 1e-3 * 0.998002,
    500: 1e-3,
    199_999: 1e-3,
    200_000: 1e-4,
    259_999: 1e-4,
    260_000: 1e-5,
    299_999: 1e-5,
}


def test_step_policy_gives_the_official_numbers() -> None:
    """mmcv 1.x: steps [200, 260] by epoch from 0, gamma 0.1, linear warmup of 500 from 0.001."""
    schedule = build_schedule(load_experiment("sdpose_s_v1"), iterations_per_epoch=1000)
    assert {i: schedule(i) for i in STEP_NUMBERS} == pytest.approx(STEP_NUMBERS, rel=1e-12)


def test_cosine_policy_goes_by_iteration() -> None:
    experiment = load_experiment(
        "quickstart",
        [
            "optimizer.lr=0.01",
            "total_epochs=10",
            "lr_config={policy: cosine, warmup_iters: 10, warmup_ratio: 0.1, min_lr_ratio: 0.2}",
        ],
    )
    schedule = build_schedule(experiment, iterations_per_epoch=6)  # 60 in all
    # lr x (0.2 + 0.8 x (1 + cos(pi x i / 60)) / 2), times 0.1 + 0.9 x i / 10 before iteration 10
    numbers = {
        0: 0.01 * 0.1,
        5: 0.01 * (0.2 + 0.4 * (1 + 0.9659258262890683)) * 0.55,
        10: 0.01 * (0.2 + 0.4 * (1 + 0.8660254037844387)),
        30: 0.01 * 0.6,
        60: 0.01 * 0.2,
    }
    assert {i: schedule(i) for i in numbers} == pytest.approx(numbers, rel=1e-12)


def test_no_warmup() -> None:
    for change in ("lr_config.warmup=null", "lr_config.warmup_iters=0"):
        schedule = build_schedule(load_experiment("sdpose_s_v1", [change]), 1000)
        assert schedule(0) == 1e-3


@pytest.mark.parametrize("kind", ["Adam", "AdamW", "SGD"])
def test_one_step_of_every_optimizer(kind: str) -> None:
    """The first step on a parameter of 1 with gradient 0.5, lr 0.1, weight decay 0.2."""
    settings = load_experiment(
        "sdpose_s_v1", [f"optimizer={{type: {kind}, lr: 0.1, weight_decay: 0.2}}"]
    ).optimizer
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = build_optimizer([parameter], settings)
    parameter.grad = torch.full((1,), 0.5)
    optimizer.step()
    after = {
        "Adam": 1 - 0.1,  # any gradient is normalised to 1
        "AdamW": 1 - 0.1 * 0.2 - 0.1,
        "SGD": 1 - 0.1 * (0.5 + 0.2),
    }
    assert parameter.item() == pytest.approx(after[kind], abs=1e-6)


def test_a_continued_run_has_the_moments_of_the_old_and_the_settings_of_the_new() -> None:
    def made(*changes: str) -> torch.optim.Optimizer:
        settings = load_experiment("sdpose_s_v1", list(changes)).optimizer
        parameter = torch.nn.Parameter(torch.ones(1))
        parameter.grad = torch.full((1,), 0.5)
        optimizer = build_optimizer([parameter], settings)
        optimizer.step()
        return optimizer

    old, new = made(), made("optimizer.weight_decay=0.2", "optimizer.betas=[0.5, 0.9]")
    load_optimizer_state(new, old.state_dict())
    (group,) = new.param_groups
    assert (group["weight_decay"], group["betas"]) == (0.2, (0.5, 0.9))
    (moments,), (expected,) = new.state.values(), old.state.values()
    assert torch.equal(moments["exp_avg"], expected["exp_avg"])
