"""Experiments that share a base, and the trials of a sweep, are versions of one model."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdpose.config import (
    dump_experiment,
    expand,
    experiment_differences,
    load_experiment,
    load_sweep,
    parse_experiment,
)
from sdpose.config.legacy import import_config
from sdpose.errors import UserError
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
