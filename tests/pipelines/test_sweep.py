"""A sweep on this machine, with a real MLflow: one trial that runs to its end, one that fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from pipelines.local.gpus import Slots
from pipelines.sdpose_pipeline import compile_pipeline
from pipelines.sweep_pipeline import make_sweep_pipeline
from sdpose.config import dump_experiment, parse_experiment
from sdpose.errors import UserError
from sdpose.registry import read_version
from sdpose.storage import open_store
from sdpose.sweeps import expand, load_sweep

TINY = Path(__file__).with_name("tiny.yaml")
SWEEP = f"""
name: rates
base: {TINY}
set: {{total_epochs: 1}}
keys: {{lr: optimizer.lr}}
grid: {{lr: [1e-3, 1e30]}}
"""


def write(folder: Path, text: str) -> str:
    path = folder / "sweep.yaml"
    path.write_text(text)
    return str(path)


def test_a_sweep_ranks_registers_and_runs_again_only_what_is_missing(
    submit, tiny_coco: Path, tmp_path: Path
) -> None:
    def run(text: str) -> tuple[int, str, str]:
        command = ("--sweep", write(tmp_path, text), "--data-root", tiny_coco, "--parallel", "2")
        process = submit(*command, cwd=tmp_path)
        output, errors = process.communicate(timeout=600)
        return process.returncode, output, errors

    code, output, errors = run(SWEEP)
    assert code == 1, errors
    assert "1 of 2 trials failed; the others are ranked" in errors, output + errors
    assert "rates-lr_1e_30: training diverged" in errors, output + errors
    # Lines of trials that run at once say whose they are.
    assert "[rates-lr_0.001] Epoch [1][1/" in output

    folder = tmp_path / "work_dirs/sweeps/rates"
    ranking = (folder / "ranking.md").read_text().splitlines()
    assert ranking[4].startswith("| 1 | 0.001 | ")
    assert ranking[4].endswith(" | 1 finished |")
    assert ranking[5].startswith("| 2 | 1e+30 | - |")
    assert ranking[5].endswith(" | 1 failed |")
    assert "rates-lr_0.001: 0." in (folder / "report.html").read_text()

    client = MlflowClient(f"sqlite:///{tmp_path}/work_dirs/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("sdpose").experiment_id])
    parent = next(run for run in runs if run.data.tags.get("sdpose.sweep") == "rates")
    nested = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(nested) == 2
    assert parent.info.status == "FINISHED"
    assert {f.path for f in client.list_artifacts(parent.info.run_id)} == {
        "ranking.md",
        "report.html",
    }

    winner = next(path.parent for path in tmp_path.glob("work_dirs/*/summary.json"))
    summary = json.loads((winner / "summary.json").read_text())
    assert summary["exp_name"] == "rates-lr_0.001"
    store = open_store(tmp_path / "work_dirs/registry")
    assert summary["model_name"] == "tiny"  # of the base, not of the trial
    assert read_version(store, "tiny", 1).version == summary["model_version"]

    logs = sorted(tmp_path.glob("work_dirs/rates-lr_0.001/*.log"))
    code, output, errors = run(SWEEP.replace("1e30", "1e-4"))
    assert code == 0, errors
    assert output.count("is finished: nothing to train") == 1
    assert sorted(tmp_path.glob("work_dirs/rates-lr_0.001/*.log")) == logs
    assert "| 1 finished |" in (folder / "ranking.md").read_text().splitlines()[5]


def test_trials_are_what_the_file_says(tmp_path: Path) -> None:
    text = f"""
name: many
base: {TINY}
keys: {{mask: [model.keypoint_head.loss_vis_token_dist.loss_weight,
              model.keypoint_head.loss_kpt_token_dist.loss_weight]}}
grid: {{mask: [1e-6, 1e-4], optimizer.lr: [1e-3]}}
trials: [{{data.samples_per_gpu: 2}}]
seeds: [3, 4]
early_stopping: {{min_epochs: 1}}
"""
    trials = expand(load_sweep(write(tmp_path, text)), ["total_epochs=7"], rungs="r", work_dir="w")
    assert [trial.name for trial in trials] == [
        "many-mask_1e-06-lr_0.001-seed_3",
        "many-mask_1e-06-lr_0.001-seed_4",
        "many-mask_0.0001-lr_0.001-seed_3",
        "many-mask_0.0001-lr_0.001-seed_4",
        "many-samples_per_gpu_2-seed_3",
        "many-samples_per_gpu_2-seed_4",
    ]
    third = trials[2].experiment
    head = third.model.keypoint_head
    assert head.loss_vis_token_dist.loss_weight == head.loss_kpt_token_dist.loss_weight == 1e-4
    assert (third.seed, third.total_epochs, third.work_dir) == (3, 7, f"w/{trials[2].name}")
    assert third.early_stopping is not None
    (folder,) = {t.experiment.early_stopping.folder for t in trials if t.experiment.early_stopping}
    assert folder.startswith("r/")
    for trial in trials:  # what travels leaves the defaults out, and is the same
        short = dump_experiment(trial.experiment, whole=False)
        assert parse_experiment(short) == trial.experiment


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"grid": {"optimizer.lrr": [1]}},
            "optimizer.lrr .from the sweep's optimizer.lrr=1.: unknown key; did you mean",
        ),
        ({"grid": {"optimizer.lr": []}}, "grid.optimizer.lr has no values"),
        ({"grid": {"seed": list(range(65))}}, "65 trials are more than limits.trials"),
        ({"trials": [{"seed": 1}, {"seed": 1}]}, "is there twice"),
        ({"base": "quickstrat", "seeds": [0]}, "did you mean 'quickstart'"),
        ({"seed": [1]}, "unknown key"),
        ({}, "no trials: give grid, trials or seeds"),
    ],
)
def test_a_wrong_sweep_is_told(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    text = yaml.safe_dump({"name": "wrong", "base": str(TINY)} | change)
    with pytest.raises(UserError, match=message):
        expand(load_sweep(write(tmp_path, text)))


def test_shipped_sweeps_expand(repository: Path) -> None:
    counts = {
        path.stem: len(expand(load_sweep(path.stem), rungs="r"))
        for path in (repository / "pipelines/sweeps").glob("*.yaml")
    }
    assert counts == {
        **{"maskedkd": 24, "maskedkd_guide": 18, "mixed_masking": 6},
        **{"cycles": 4, "batch": 3, "seeds": 5},
    }


def test_on_a_cluster_trials_run_side_by_side(tmp_path: Path) -> None:
    from components.profile import load_cluster

    cluster = load_cluster(str(Path(__file__).with_name("cluster.yaml")))
    compile_pipeline(make_sweep_pipeline(cluster, parallel=3), tmp_path / "sweep.yaml")
    package, platform = yaml.safe_load_all((tmp_path / "sweep.yaml").read_text())
    tasks = package["root"]["dag"]["tasks"]
    assert tasks["for-loop-1"]["iteratorPolicy"] == {"parallelismLimit": 3}
    assert set(tasks["for-loop-1"]["dependentTasks"]) >= {"open-sweep"}
    assert tasks["prepare-coco"]["dependentTasks"] == ["preflight"]
    executors = package["deploymentSpec"]["executors"]
    assert executors["exec-trial-on-cluster"]["container"]["image"] == cluster.image
    assert "exec-trial" not in executors
    assert set(platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]) == set(executors)


def test_steps_that_run_at_once_share_the_gpus_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    slots = Slots(2)
    first, second = slots.take(), slots.take()
    assert [s["CUDA_VISIBLE_DEVICES"] for s in (first, second)] == ["0,2", "1,3"]
    slots.give_back(second)
    assert slots.take() == second
    assert Slots(1).take() == {}
