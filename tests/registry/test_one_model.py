"""Experiments that share a base, and the trials of a sweep, are versions of one model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from made import Register, write_checkpoint

from sdpose.cli import cli
from sdpose.config import (
    Experiment,
    dump_experiment,
    experiment_differences,
    load_experiment,
    parse_experiment,
)
from sdpose.errors import UserError
from sdpose.registry import CHANNELS, summarize
from sdpose.registry.promote import promote
from sdpose.registry.register_run import register_run
from sdpose.registry.versions import versions
from sdpose.runner.experiment_changes import differences
from sdpose.storage import Store, open_store
from sdpose.sweeps import expand, load_sweep
from sdpose.tools.mmpose_import import import_config


def model_of(name: str | Path, *overrides: str) -> str | None:
    return load_experiment(name, overrides).registry.model


def test_the_first_base_names_the_model(tmp_path: Path) -> None:
    folder = tmp_path
    (folder / "mine.yaml").write_text("base: maskedkd_v2\nexp_name: mine\n")
    (folder / "other.yaml").write_text("base: mine\nexp_name: other\nregistry: {model: warehouse}")
    assert model_of("sdpose_s_v1") == model_of("maskedkd_v2") == "sdpose_s_v1"
    assert model_of(folder / "mine.yaml") == "sdpose_s_v1"
    assert model_of(folder / "other.yaml") == "warehouse"
    assert model_of("quickstart", "exp_name=monday") == "quickstart"
    assert model_of("quickstart", "registry.model=poses") == "poses"


def test_all_trials_of_a_sweep_are_of_one_model() -> None:
    for sweep in ("maskedkd", "seeds"):
        trials = expand(load_sweep(sweep), rungs="rungs")
        assert {trial.experiment.registry.model for trial in trials} == {"sdpose_s_v1"}


def test_an_experiment_of_an_earlier_version_is_its_own_model() -> None:
    """Of a work dir or a manifest: one document, without the key and without a base."""
    text = dump_experiment(load_experiment("maskedkd_v2"))
    assert "\nregistry:\n  model: sdpose_s_v1\n" in text
    before = text.replace("registry:\n  model: sdpose_s_v1\n", "")
    old, new = parse_experiment(before), parse_experiment(text)
    assert old.registry.model == old.exp_name
    assert new.registry.model == "sdpose_s_v1"
    assert list(experiment_differences(old, new)) == ["registry.model"]
    assert differences(before, new) == []  # the same run goes on


def test_a_bad_name_is_one_problem(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("exp_name: my pose\n")
    with pytest.raises(UserError) as caught:
        load_experiment(tmp_path / "bad.yaml")
    assert "exp_name" in str(caught.value)
    assert "registry" not in str(caught.value)


def test_an_imported_configuration_is_of_its_bases_model(tmp_path: Path) -> None:
    source = Path(__file__).parents[1] / "tools/mmpose_import/mmpose/coco"
    imported = import_config(source / "sdpose_s_v1_maskedkd.py")
    assert imported.experiment.registry.model == "sdpose_s_v1"
    (tmp_path / "mine.yaml").write_text(imported.text)
    assert load_experiment(tmp_path / "mine.yaml") == imported.experiment


# ------------------------------------------------------------------------------- `register` by hand


@pytest.fixture
def work_dir(experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As a pipeline leaves it, in the registry `pipeline`."""
    monkeypatch.setenv("SDPOSE_REGISTRY", str(tmp_path / "pipeline"))
    folder = tmp_path / "work_dirs" / "mine"
    folder.mkdir(parents=True)
    checkpoint = write_checkpoint(folder / "best_AP_epoch_1.pth", experiment, 1)
    results = {"AP": 0.5, "AR": 0.6, "settings": {"bbox_source": "ground truth", "vis_thr": 0.2}}
    (tmp_path / "results.metrics.json").write_text(json.dumps(results))
    register_run(
        experiment.model_copy(update={"work_dir": str(folder)}),
        checkpoint=checkpoint,
        trained_as=checkpoint,
        results=tmp_path / "results.json",
        dataset_digest="d" * 64,
        mlflow_run_id="",
        runner="local",
        git_commit="abc-dirty",
    )
    return folder


def by_hand(source: Path, root: Path, *options: str) -> Any:
    words = ["registry", "register", "pose", str(source), "--registry", str(root), *options]
    return CliRunner().invoke(cli, words, catch_exceptions=False)


def test_a_work_dir_is_registered_as_the_pipeline_did(work_dir: Path, tmp_path: Path) -> None:
    (by_pipeline,) = versions(open_store(tmp_path / "pipeline"), "tiny")
    moved = tmp_path / "elsewhere"
    for number, source in enumerate((work_dir, work_dir / "best_AP_epoch_1.pth", moved)):
        if source == moved:
            work_dir.rename(moved)
        result = by_hand(source, tmp_path / str(number))
        assert (result.exit_code, result.stderr) == (0, "")
        (version,) = versions(open_store(tmp_path / str(number)), "pose")
        for key in ("metrics", "evaluation_settings", "dataset_digest", "git", "identity"):
            assert version.manifest[key] == by_pipeline.manifest[key], key


def test_what_a_registration_lacks_is_said(work_dir: Path, tmp_path: Path) -> None:
    summary = json.loads((work_dir / "summary.json").read_text())
    del summary["evaluation_settings"]  # as f51444b wrote it
    (work_dir / "summary.json").write_text(json.dumps(summary))
    said = by_hand(work_dir, tmp_path / "a").stderr
    assert "registered without evaluation settings" in said
    (work_dir / "summary.json").unlink()
    said = by_hand(work_dir / "best_AP_epoch_1.pth", tmp_path / "b").stderr
    assert "registered without AP, without which no channel takes the version; dataset" in said
    record = promote(open_store(tmp_path / "b"), "pose", 1, "candidate", approver="kim")
    assert not record["allowed"], "the first promotion, too"
    with pytest.raises(UserError, match=r"has no summary\.json.*sdpose test .*experiment\.yaml"):
        by_hand(work_dir, tmp_path / "c")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metrics": {"AP": 7.5}}, "AP: 7.5"),
        ({"metrics": None}, "not what the pipeline writes"),
        ({"best_checkpoint": "gone.pth"}, "gone.pth, which is not there"),
        ({"dataset_digest": 5}, "not what the pipeline writes"),
        (None, "not what the pipeline writes"),
    ],
)
def test_a_summary_that_is_none(
    work_dir: Path, tmp_path: Path, changes: dict[str, Any] | None, said: str
) -> None:
    summary = json.loads((work_dir / "summary.json").read_text())
    content = [] if changes is None else summary | changes
    (work_dir / "summary.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=said):
        by_hand(work_dir, tmp_path / "a")


# ------------------------------------------------------------------------------------------- `list`


def test_the_best_version_is_listed_first(
    register: Register, experiment: Experiment, store: Store, root: str
) -> None:
    name = "sdpose_s_v1_" + 8 * "stemnet_" + "ratio_0.5"
    for seed, ap in ((1, 0.5), (2, 0.7), (3, None), (4, 0.6)):
        variant = experiment.model_copy(update={"exp_name": f"{name}-seed_{seed}"})
        register(seed, ap=ap, experiment=variant)
    for channel in CHANNELS:
        assert promote(store, "tiny", 4, channel, approver="kim")["allowed"]
    command = ["registry", "list", "tiny", "--registry", root]
    shown = CliRunner().invoke(cli, command, catch_exceptions=False).stdout
    lines = shown.splitlines()
    assert lines[0].split() == ["version", "AP", "experiment", "dataset", "registered", "channels"]
    assert [line.split()[:2] for line in lines[1:]] == [
        ["2", "0.7000"],
        ["4", "0.6000"],
        ["1", "0.5000"],
        ["3", "-"],
    ]
    assert max(map(len, lines)) <= 100
    assert lines[2].endswith("  candidate staging production")
    assert "ratio_0.5-seed_4  dddddddd" in lines[2]
    register(5, ap=0.9, dataset_digest="e" * 64)
    rows = json.loads(CliRunner().invoke(cli, [*command, "--json"]).stdout)
    assert [row["version"] for row in rows] == [5, 2, 4, 1, 3]
    assert rows[1]["exp_name"] == f"{name}-seed_2"
    assert "other data or other evaluation settings does not compare" in (
        CliRunner().invoke(cli, command).stdout
    )


def test_experiments_of_one_model_meet_at_the_gate(
    register: Register, experiment: Experiment, store: Store
) -> None:
    other = experiment.model_copy(update={"exp_name": "other", "seed": 1})
    register(1, ap=0.6)
    register(2, ap=0.5, experiment=other)
    assert promote(store, "tiny", 1, "production", approver="kim")["allowed"]
    record = promote(store, "tiny", 2, "production", approver="kim")
    (reason,) = [v["reason"] for v in record["gates"] if not v["passed"]]
    assert reason == "AP 0.5000, version 1 has 0.6000 (as registered), margin 0.0"


def test_a_registry_without_names_is_listed_with_them(tmp_path: Path) -> None:
    """f51444b wrote no experiment into the index. The manifests have it."""
    old = tmp_path / "old"
    shutil.copytree(Path(__file__).with_name("written_by_f51444b"), old)
    result = CliRunner().invoke(cli, ["registry", "list", "tiny", "--registry", str(old)])
    names = [line.split()[2] for line in result.stdout.splitlines()[1:4]]
    assert names == ["tiny"] * 3
    (old / "models/tiny/versions/2.json").write_text("{}")  # the index has what was there
    rows = summarize(open_store(old), "tiny")
    assert [row.get("exp_name") for row in rows] == ["tiny", None, "tiny"]
