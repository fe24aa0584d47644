"""A channel moves through its gates, one generation at a time, and every attempt is on record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from made import Register, with_promotion, write_checkpoint

from sdpose.cli import cli
from sdpose.config import Experiment
from sdpose.errors import UserError
from sdpose.registry import channels, pull, resolve
from sdpose.registry.channels import current, history, refusals
from sdpose.registry.layout import history_key
from sdpose.registry.promote import promote, rollback
from sdpose.registry.verify import verify
from sdpose.storage import Store

pytestmark = pytest.mark.slow


def test_promote_refuse_and_roll_back(
    store: Store, register: Register, experiment: Experiment, tmp_path: Path
) -> None:
    strict = with_promotion(experiment, min_ap=0.5, margin=0.01, max_size_mb=5)
    for seed, ap in ((1, 0.6), (2, 0.605), (3, 0.62), (4, 0.4)):
        register(seed, ap=ap, experiment=strict)
    first = promote(store, "tiny", 1, "production", approver="kim", comment="go")
    assert (first["allowed"], first["generation"], first["previous_version"]) == (True, 1, None)
    assert promote(store, "tiny", 1, "production", approver="lee") == first  # it is there

    refused = promote(store, "tiny", 2, "production", approver="kim")
    assert not refused["allowed"]
    assert [v["gate"] for v in refused["gates"] if not v["passed"]] == ["better"]
    assert "0.6050" in refused["gates"][-1]["reason"]
    low = promote(store, "tiny", 4, "staging", approver="kim")
    assert [v["gate"] for v in low["gates"] if not v["passed"]] == ["min_ap"]
    assert current(store, "tiny", "staging") is None

    third = promote(store, "tiny", 3, "production", approver="kim")
    assert (third["generation"], third["previous_version"]) == (2, 1)
    back = rollback(store, "tiny", "production", approver="lee", comment="worse at night")
    assert (back["generation"], back["version"], back["action"]) == (3, 1, "rollback")
    with pytest.raises(UserError, match="no version before 1"):
        rollback(store, "tiny", "production", approver="lee")

    records = history(store, "tiny", "production")
    assert [(r["generation"], r["version"]) for r in records] == [(1, 1), (2, 3), (3, 1)]
    assert records[-1] == current(store, "tiny", "production")
    assert [r["version"] for r in refusals(store, "tiny", "production")] == [2]
    assert resolve(store, "tiny@production").version == 1
    assert pull(store, "tiny@production", tmp_path).weights == tmp_path / "tiny.safetensors"
    assert verify(store) == []


def test_a_model_that_does_not_work_is_refused(
    store: Store, register: Register, experiment: Experiment, tmp_path: Path
) -> None:
    path = write_checkpoint(tmp_path / "epoch_1.pth", experiment, 1)
    content = torch.load(path, weights_only=True)
    content["state_dict"]["patch_embedding.weight"][0, 0] = float("nan")
    torch.save(content, path)
    blind = torch.load(write_checkpoint(tmp_path / "epoch_2.pth", experiment, 2), weights_only=True)
    blind["state_dict"]["patch_embedding.weight"].zero_()
    torch.save(blind, tmp_path / "epoch_2.pth")
    for seed, gate in ((1, "finite"), (2, "sees")):
        register(seed)
        record = promote(store, "tiny", seed, "candidate", approver="kim")
        assert [v["gate"] for v in record["gates"] if not v["passed"]] == [gate]


def test_other_data_is_not_compared(store: Store, register: Register) -> None:
    register(1, ap=0.5)
    register(2, ap=0.6, dataset_digest="e" * 64)
    promote(store, "tiny", 1, "production", approver="kim")
    record = promote(store, "tiny", 2, "production", approver="kim", data_root="/nowhere")
    (verdict,) = [v for v in record["gates"] if not v["passed"]]
    assert "could not be evaluated again" in verdict["reason"]
    assert "/nowhere" in verdict["reason"]


def test_a_promoter_that_dies_after_the_move_leaves_a_whole_history(
    store: Store, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (1, 2, 3):
        register(seed, ap=seed / 10)
    promote(store, "tiny", 1, "staging", approver="kim")
    with monkeypatch.context() as patch:
        patch.setattr(channels, "_add_to_history", lambda *_: None)  # killed before it
        promote(store, "tiny", 2, "staging", approver="kim")
    assert not store.exists(history_key("tiny", "staging", 2))
    assert [r["version"] for r in history(store, "tiny", "staging")] == [1, 2]
    assert verify(store) == []
    promote(store, "tiny", 3, "staging", approver="kim")
    assert [r["version"] for r in history(store, "tiny", "staging")] == [1, 2, 3]
    assert len(list(store.list("models/tiny/channels/staging/history"))) == 3


def test_the_command_line(root: str, tmp_path: Path, experiment: Experiment) -> None:
    checkpoint = write_checkpoint(tmp_path / "best.pth", experiment, 1)
    metrics = tmp_path / "r.metrics.json"
    metrics.write_text(json.dumps({"AP": 0.61, "settings": {"bbox_source": "ground truth"}}))
    registry = ["--registry", root]

    def run(*words: str, code: int = 0) -> Any:
        result = CliRunner().invoke(cli, ["registry", *words, *registry, "--json"])
        assert result.exit_code == code, (result.output, result.exception)
        return json.loads(result.stdout)

    registered = run("register", "tiny", str(checkpoint), "--metrics", str(metrics))
    assert (registered["version"], registered["created"]) == (1, True)
    assert run("promote", "tiny", "1", "--channel", "production")["allowed"]
    assert run("list")["tiny"] == {"production": 1}
    (row,) = run("list", "tiny")
    assert (row["AP"], row["channels"]) == (0.61, ["production"])
    assert run("show", "tiny@production")["metrics"] == {"AP": 0.61}
    write_checkpoint(tmp_path / "best.pth", experiment, 2)
    metrics.write_text(json.dumps({"AP": 0.5, "settings": {"bbox_source": "ground truth"}}))
    run("register", "tiny", str(checkpoint), "--metrics", str(metrics))
    assert run("diff", "tiny@1", "tiny@2")["metrics.AP"] == [0.61, 0.5]
    assert not run("promote", "tiny", "2", "--channel", "production", code=1)["allowed"]
    assert [r["allowed"] for r in run("history", "tiny")] == [True, False]
    assert run("pull", "tiny@production", str(tmp_path / "out.safetensors"))["version"] == 1
    assert run("pull", "tiny@production", f"{tmp_path}/new/")["weights"] == (
        f"{tmp_path}/new/tiny.safetensors"
    )
    assert run("verify") == []
    assert run("gc")["dry_run"]
    for words in (["list"], ["list", "tiny"], ["show", "tiny@1"], ["history", "tiny"], ["verify"]):
        result = CliRunner().invoke(cli, ["registry", *words, *registry])
        assert result.exit_code == 0, result.output
