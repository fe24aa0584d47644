"""The options of a step, on CPU, where all of them work when they are asked for."""

from __future__ import annotations

import copy
import os
import signal

import pytest
import torch
from test_step import random_batch, tiny_step_parts

from sdpose.errors import UserError
from sdpose.models import build_model, load_weights
from sdpose.runner.stop_signals import StopSignals
from sdpose.runner.train import train
from sdpose.training import loop
from sdpose.training.ema import AveragedModel
from sdpose.training.step import train_step

pytestmark = pytest.mark.slow

OPTIONS = {
    "bf16, fused, channels_last": ("amp=bf16", "optimizer.fused=on", "channels_last=on"),
    "fp16": ("amp=fp16", "optimizer={type: AdamW, weight_decay: 0.01}"),
    "EMA": ("ema={decay: 0.9, warm_up: 10}",),
    "accumulation": ("optimizer_config.cumulative_iters=2", "data.samples_per_gpu=4"),
    "all": (
        "amp=fp16",
        "channels_last=on",
        "optimizer={type: SGD, lr: 1e-3, fused: on}",
        "optimizer_config.cumulative_iters=2",
        "data.samples_per_gpu=4",
        "ema={decay: 0.99}",
    ),
}


def train_until(step: int, experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it is asked to stop in that step, as another rank asks.

    (A signal to this process would do more: after the grace period its timer ends pytest itself.)
    """
    handlers = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    done = []

    def counted(*arguments, **options):
        done.append(1)
        if len(done) == step:
            StopSignals.installed.adopt(signal.SIGTERM)
        return train_step(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", counted)
        with pytest.raises(SystemExit):
            train(experiment)
    # A process that is asked to stop has no use for them any more; this one goes on.
    for number, handler in handlers.items():
        signal.signal(number, handler)
    signal.set_wakeup_fd(-1)
    os.close(StopSignals.installed._write_end)  # ends the thread that keeps the deadline
    StopSignals.installed = None


@pytest.mark.parametrize("name", OPTIONS)
def test_resume_is_exact_with(
    name: str, make, assert_same_weights, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    options = OPTIONS[name]
    undisturbed = train(make(*options, work_dir="undisturbed"))
    said = capsys.readouterr().out
    train_until(15, make(*options, work_dir="stopped"), monkeypatch)
    assert "stopped at epoch 2" in capsys.readouterr().out
    resumed = train(make(*options, work_dir="stopped"))
    assert_same_weights(undisturbed.last_checkpoint, resumed.last_checkpoint)
    left, right = (
        torch.load(result.last_checkpoint, weights_only=True) for result in (undisturbed, resumed)
    )
    assert left.keys() == right.keys()
    assert ("scaler" in left, "training_state_dict" in left) == (
        "amp=fp16" in options,
        any(option.startswith("ema") for option in options),
    )
    assert left.get("scaler") == right.get("scaler")
    for key, tensor in left.get("training_state_dict", {}).items():
        assert torch.equal(tensor, right["training_state_dict"][key]), key
    on = said.split("on: ")[1].split("; off")[0]
    expected = {
        "amp=bf16": "amp bf16",
        "amp=fp16": "amp fp16",
        "channels_last=on": "channels_last",
        "optimizer.fused=on": "fused optimizer",
        "ema={decay: 0.99}": "EMA 0.99",
        "optimizer_config.cumulative_iters=2": "accumulation of 2 batches",
    }
    for option in options:
        assert expected.get(option, "") in on


def test_compiled_training_is_the_same(make, records, capsys) -> None:
    """Inductor, as on a GPU; its kernels round differently."""
    short = ("total_epochs=1", "optimizer={type: SGD, lr: 0.05}")
    train(make(*short, work_dir="eager"))
    compiled = train(make(*short, "compile=on", work_dir="compiled"))
    assert "on: compile" in capsys.readouterr().out
    folder = compiled.last_checkpoint.parents[1]
    eager, ours = (
        [line["loss"] for line in records(folder / name) if line["mode"] == "train"]
        for name in ("eager", "compiled")
    )
    assert ours == pytest.approx(eager, rel=1e-4)
    names = torch.load(compiled.last_checkpoint, weights_only=True)["state_dict"]
    assert not any("_orig_mod" in name for name in names)


def test_fp16_leaves_out_a_step_that_overflows(make) -> None:
    model, loss, batch = tiny_step_parts(make)
    optimizer = torch.optim.Adam(model.parameters())
    before = copy.deepcopy(list(model.parameters()))
    batch["targets_NKHW"] *= 1e3
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    for fused in (False, True):
        optimizer.defaults["fused"] = fused
        optimizer.param_groups[0]["fused"] = fused
        values = train_step(model, loss, optimizer, [batch], lr=0.1, scaler=scaler)
        assert values["skipped"] == 1
        assert all(map(torch.equal, model.parameters(), before))
    assert scaler.get_scale() == 2.0**125
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    values = train_step(model, loss, optimizer, [batch], lr=0.1, scaler=scaler)
    assert values["skipped"] == 0
    assert not torch.equal(next(model.parameters()), before[0])


def test_ema_by_hand(make) -> None:
    """0.5 of the old at most, and (1 + steps) / (10 + steps) in the beginning."""
    model = build_model(make().model)
    average = AveragedModel(model, decay=0.5, warm_up=10)
    weight, ours = model.keypoint_tokens, average.model.keypoint_tokens
    expected = weight.detach().clone()
    with torch.no_grad():
        for step, decay in ((0, 0.1), (1, 2 / 11), (100, 0.5)):
            weight += 1
            average.update(step)
            expected = decay * expected + (1 - decay) * weight
            torch.testing.assert_close(ours, expected)
    assert not ours.requires_grad


def test_the_average_is_evaluated_and_kept_as_best(make) -> None:
    """With a decay of nearly 1 and no warm-up the average stays at the initial weights: an AP is
    what those have, and the best checkpoint loads as them."""
    experiment = make("ema={decay: 0.999999, warm_up: 1}", "total_epochs=2", "optimizer.lr=0.01")
    result = train(experiment)
    best = torch.load(result.best_checkpoint, weights_only=True)
    torch.manual_seed(experiment.seed)
    initial = build_model(experiment.model)
    loaded = build_model(experiment.model)
    load_weights(loaded, result.best_checkpoint)
    torch.testing.assert_close(loaded.keypoint_tokens, initial.keypoint_tokens, rtol=0, atol=1e-4)
    trained = best["training_state_dict"]["keypoint_tokens"]
    assert (trained - initial.keypoint_tokens).abs().max() > 0.01
    # Continued without: from the weights that were trained, not from their average.
    again = train(make("ema=null", "total_epochs=3", "optimizer.lr=1e-12", "resume_from=auto"))
    last = torch.load(again.last_checkpoint, weights_only=True)
    torch.testing.assert_close(last["state_dict"]["keypoint_tokens"], trained, rtol=0, atol=1e-6)


def test_accumulated_gradients_are_those_of_the_whole_batch(make) -> None:
    """Two halves of a batch against the batch; BatchNorm aside, which sees the halves."""
    model, loss, batch = tiny_step_parts(make)
    model.eval()
    whole = copy.deepcopy(model)
    optimizers = [torch.optim.SGD(m.parameters(), lr=1.0) for m in (model, whole)]
    halves = [
        {name: tensor[part] for name, tensor in batch.items()} for part in (slice(2), slice(2, 4))
    ]
    values = train_step(model, loss, optimizers[0], halves, lr=0.1)
    expected = train_step(whole, loss, optimizers[1], [random_batch()], lr=0.1)
    for name in ("heatmap_loss", "vis_dist_loss", "loss", "grad_norm"):
        torch.testing.assert_close(values[name], expected[name], rtol=1e-5, atol=1e-9)
    for ours, theirs in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_options_that_the_machine_cannot_do(make, monkeypatch: pytest.MonkeyPatch) -> None:
    from sdpose.training.options import step_options

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    old = torch.device("cuda", 0)
    with pytest.raises(UserError, match="Tesla T4 does not compute in bf16; set amp to fp16"):
        step_options(make("amp=bf16"), old)
    assert step_options(make(), old).amp is None
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    chosen = step_options(make(), old)
    assert (chosen.amp, chosen.compile, chosen.channels_last, chosen.fused) == (
        *(torch.bfloat16, True, True, True),
    )
