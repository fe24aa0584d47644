"""Experiments that share a base, and the trials of a sweep, are versions of one model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from made import write_checkpoint

from sdpose.cli import cli
from sdpose.config import (
    Experiment,
    dump_experiment,
    expand,
    experiment_differences,
    load_experiment,
    load_sweep,
    parse_experiment,
)
from sdpose.config.legacy import import_config
from sdpose.errors import UserError
from sdpose.registry.promote import promote
from sdpose.registry.run import register_run
from sdpose.registry.versions import versions
from sdpose.storage import open_store
from sdpose.training.changes import differences


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
    source = Path(__file__).parents[1] / "config" / "mmpose" / "coco"
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


def register(source: Path, root: Path, *options: str) -> Any:
    words = ["registry", "register", "pose", str(source), "--registry", str(root), *options]
    return CliRunner().invoke(cli, words, catch_exceptions=False)


def test_a_work_dir_is_registered_as_the_pipeline_did(work_dir: Path, tmp_path: Path) -> None:
    (by_pipeline,) = versions(open_store(tmp_path / "pipeline"), "tiny")
    moved = tmp_path / "elsewhere"
    for number, source in enumerate((work_dir, work_dir / "best_AP_epoch_1.pth", moved)):
        if source == moved:
            work_dir.rename(moved)
        result = register(source, tmp_path / str(number))
        assert (result.exit_code, result.stderr) == (0, "")
        (version,) = versions(open_store(tmp_path / str(number)), "pose")
        for key in ("metrics", "evaluation_settings", "dataset_digest", "git", "identity"):
            assert version.manifest[key] == by_pipeline.manifest[key], key


def test_what_a_registration_lacks_is_said(work_dir: Path, tmp_path: Path) -> None:
    summary = json.loads((work_dir / "summary.json").read_text())
    del summary["evaluation_settings"]  # as f51444b wrote it
    (work_dir / "summary.json").write_text(json.dumps(summary))
    said = register(work_dir, tmp_path / "a").stderr
    assert "registered without evaluation settings" in said
    (work_dir / "summary.json").unlink()
    said = register(work_dir / "best_AP_epoch_1.pth", tmp_path / "b").stderr
    assert "registered without AP, without which no channel takes the version; dataset" in said
    record = promote(open_store(tmp_path / "b"), "pose", 1, "candidate", approver="kim")
    assert not record["allowed"], "the first promotion, too"
    with pytest.raises(UserError, match=r"has no summary\.json.*sdpose test .*experiment\.yaml"):
        register(work_dir, tmp_path / "c")


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
        register(work_dir, tmp_path / "a")
