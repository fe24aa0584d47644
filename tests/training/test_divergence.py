"""Steps that go wrong, in real runs: NaN in a batch, spikes, a dropping AP."""

from __future__ import annotations

import math
import re

import pytest
import torch
from forked import spoilt

from sdpose.models import build_model
from sdpose.runner.train import train
from sdpose.training import loop
from sdpose.training.distributed import World
from sdpose.training.divergence import BAD_STEPS_IN_A_ROW, DivergedError, LossWatch
from sdpose.training.step import train_step


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch):
    """spoil({15: NAN}): the 15th step of this process, by that factor (see `spoilt`). The returned
    list holds the sample ids of those steps."""

    def start(factors: dict[int, float]) -> list[list[int]]:
        done: list[int] = []
        samples: list[list[int]] = []

        def step(model, loss, optimizer, batches, **options):
            done.append(1)
            if len(done) in factors:
                batches = spoilt(batches, factors[len(done)])
                samples.append(batches[0]["sample_ids_N"].tolist())
            return train_step(model, loss, optimizer, batches, **options)

        monkeypatch.setattr(loop, "train_step", step)
        return samples

    return start


def is_finite(path) -> bool:
    state = torch.load(path, weights_only=True)["state_dict"]
    return all(t.isfinite().all() for t in state.values() if t.is_floating_point())


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("optimizer.fused=on",), ("amp=fp16",)])
def test_skip_step_leaves_out_nan_and_spikes(options, make, spoil, capsys) -> None:
    samples = spoil({14: math.nan, 17: 1000.0})
    result = train(make("on_divergence=skip_step", *options))
    said = capsys.readouterr().out
    assert result.epochs == 3
    assert is_finite(result.last_checkpoint)
    whats = ("a loss that is not finite", "a loss spike|gradients that overflow .*")
    for what, ids, step in zip(whats, samples, (14, 17), strict=True):
        found = re.search(
            rf"(?:{what}) in epoch 2, iteration {step - 12} \(step {step} of the run\): .*\n"
            r"  learning rate: [\d.e-]+\n  samples \(annotation ids\): ([\d, ]+)",
            said,
        )
        assert found, said
        assert [int(i) for i in found[1].split(", ")] == ids


def test_a_skipped_step_leaves_no_trace(make, spoil) -> None:
    """But for its samples: weights, moments and BatchNorm's statistics are as before."""
    spoil({1: math.nan})
    steps = {}
    original = loop._log_steps

    def log(run, window, epoch, lr):
        if run.progress.iteration == 1:
            steps["after"] = {n: t.clone() for n, t in run.model.state_dict().items()}
            steps["state"] = dict(run.optimizer.state)
        original(run, window, epoch, lr)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_log_steps", log)
        experiment = make("on_divergence=skip_step", "total_epochs=1")
        train(experiment)
    torch.manual_seed(experiment.seed)
    for name, tensor in build_model(experiment.model).state_dict().items():
        assert torch.equal(tensor, steps["after"][name]), name
    assert not steps["state"]


def test_skip_step_gives_up_when_nothing_else_comes(make, spoil) -> None:
    spoil(dict.fromkeys(range(13, 60), math.nan))
    with pytest.raises(DivergedError) as stopped:
        train(make("on_divergence=skip_step"))
    assert f"iteration {BAD_STEPS_IN_A_ROW} " in str(stopped.value)


@pytest.mark.slow
def test_rollback_goes_on_behind_what_diverged(make, spoil, records, capsys) -> None:
    samples = spoil({14: math.nan})
    result = train(
        make("on_divergence=rollback", "log_config.interval=2", "data.workers_per_gpu=1")
    )
    said = capsys.readouterr().out
    assert (
        "diverged: a loss that is not finite in epoch 2, iteration 2 (step 14 of the run)" in said
    )
    assert ", ".join(map(str, samples[0])) in said
    assert re.search(r"latest.pth \(epoch 1\), going on at epoch 2, iteration 2/12", said)
    assert result.epochs == 3
    assert is_finite(result.last_checkpoint)
    trained = [
        (r["epoch"], r["iter"])
        for r in records(result.last_checkpoint.parent)
        if r["mode"] == "train"
    ]
    assert trained[6:8] == [(2, 4), (2, 6)]


def test_rollback_stops_when_it_does_not_help(make, spoil) -> None:
    spoil(dict.fromkeys(range(13, 60), math.nan))
    with pytest.raises(DivergedError, match="iteration 4 "):
        train(make("on_divergence=rollback"))


def test_rollback_needs_a_checkpoint(make, spoil) -> None:
    spoil({3: math.nan})
    with pytest.raises(DivergedError, match="epoch 1, iteration 3"):
        train(make("on_divergence=rollback"))


@pytest.mark.parametrize(("policy", "factor"), [("skip_step", 1000.0), ("rollback", math.nan)])
def test_ranks_decide_as_one(policy, factor, make, launch) -> None:
    """Only rank 1 has a bad batch."""
    experiment = make(f"on_divergence={policy}", "data.samples_per_gpu=4", "total_epochs=2")
    run = launch(experiment, ranks=2, environment={"SPOIL": (1, 14, factor)}, pause=0.0)
    assert run.wait() == 0, run.text()
    found = re.search(r"\(step 14 of the run\).*\n.*\n  samples \(.*\): ([\d, ]+)", run.text())
    assert found, run.text()
    assert len(found[1].split(",")) == 8  # both ranks'
    weights = dict(re.findall(r"weights after (step \d+ on rank \d): (.*)", run.text()))
    assert len(weights) == 2 * 24
    for step in range(1, 25):
        assert weights[f"step {step} on rank 0"] == weights[f"step {step} on rank 1"]
    before = {"skip_step": weights["step 13 on rank 0"], "rollback": "nan"}
    assert weights["step 14 on rank 0"] == before[policy]
    assert weights["step 24 on rank 0"] not in ("nan", weights["step 13 on rank 0"])


def test_a_dropped_ap_is_said_and_rolled_back(make, monkeypatch, capsys) -> None:
    aps = iter((0.5, 0.44, 0.6))
    original = loop.evaluate

    def evaluate(*arguments, **options):
        result = original(*arguments, **options)
        result.metrics["AP"] = next(aps)
        return result

    monkeypatch.setattr(loop, "evaluate", evaluate)
    train(make("evaluation.interval=1", "on_divergence=rollback", "ap_drop=0.05"))
    said = capsys.readouterr().out
    assert re.search(
        r"AP dropped from 0.5000 at epoch 1 to 0.4400 at epoch 2; learning rate [\d.e-]+", said
    )
    assert re.search(r"rolled back .*best_AP_epoch_1.pth \(epoch 1\)", said)


def test_the_watch_by_hand() -> None:
    watch = LossWatch(World(0, 1, torch.device("cpu")), 5.0)
    norm = torch.tensor(1.0)

    def is_bad(loss: float) -> bool:
        return bool(watch.is_bad(torch.tensor(loss), norm))

    assert not any([is_bad(2.0), is_bad(100.0)])  # nothing is known yet
    assert is_bad(math.inf)
    assert not any(is_bad(1.0) for _ in range(200))
    assert not is_bad(4.0)
    assert is_bad(6.0)
    strict = LossWatch(World(0, 1, torch.device("cpu")), 2.0)
    assert not any(bool(strict.is_bad(torch.tensor(1.0), norm)) for _ in range(200))
    assert bool(strict.is_bad(torch.tensor(3.0), norm))
    assert bool(watch.is_bad(torch.tensor(1.0), torch.tensor(math.nan)))
    assert sum(is_bad(20.0) for _ in range(200)) < 150  # what stays is usual in the end
