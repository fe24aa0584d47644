"""Keys as people write them: short ones, dotted ones, and those that do not exist."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from sdpose.config import experiment_differences, load_experiment, load_with_origins
from sdpose.config.key_names import key_paths
from sdpose.config.schema import Experiment, Sweep
from sdpose.config.short_keys import OTHER_NAMES, SHORT_KEYS
from sdpose.errors import UserError
from sdpose.sweeps import expand, load_sweep

VIS = "model.keypoint_head.loss_vis_token_dist"
KPT = "model.keypoint_head.loss_kpt_token_dist"


def write(folder: Path, text: str, name: str = "mine") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


def ratios(experiment: Experiment) -> list[float | None]:
    head = experiment.model.keypoint_head
    return [
        loss and loss.mask_ratio for loss in (head.loss_vis_token_dist, head.loss_kpt_token_dist)
    ]


def test_the_tables_name_keys_that_exist() -> None:
    paths = key_paths(Experiment)
    for name, targets in SHORT_KEYS.items():
        assert set(targets) <= set(paths), name
        assert name not in Experiment.model_fields, f"{name} would hide a key"
    assert set(OTHER_NAMES.values()) <= set(paths)


@pytest.mark.parametrize("page", ["docs/experiments.md", "docs/ko/experiments.md"])
def test_the_guides_name_every_short_key(repository: Path, page: str) -> None:
    text = (repository / page).read_text(encoding="utf-8")
    assert [name for name in SHORT_KEYS if f"`{name}`" not in text] == []


def test_one_short_key_sets_both_losses() -> None:
    experiment, origins = load_with_origins("maskedkd_v2", ["mask_ratio=0.5"])
    assert ratios(experiment) == [0.5, 0.5]
    assert {origins[f"{loss}.mask_ratio"] for loss in (VIS, KPT)} == {"--set mask_ratio=0.5"}


def test_a_loss_that_is_off_stays_off(tmp_path: Path) -> None:
    path = write(tmp_path, "base: maskedkd_v2\nloss_kpt_token_dist: null\nmask_ratio: 0.7")
    assert ratios(load_experiment(path)) == [0.7, None]
    assert ratios(load_experiment(path, ["mask_ratio=0.2"])) == [0.2, None]
    with pytest.raises(UserError, match=r"mask_ratio=0.5: .*both null.*set one of them"):
        load_experiment(path, ["loss_vis_token_dist=null", "mask_ratio=0.5"])


def test_short_and_dotted_keys_in_a_file(tmp_path: Path) -> None:
    text = "base: maskedkd_v2\nmask_ratio: 0.5\nlr: 5e-4\nevaluation.interval: 5"
    path = write(tmp_path, f"{text}\noptimizer: {{weight_decay: 0.1}}\nloss_vis_token_dist: {{}}")
    experiment, origins = load_with_origins(path)
    assert ratios(experiment) == [0.5, 0.5]
    assert (experiment.optimizer.lr, experiment.optimizer.weight_decay) == (5e-4, 0.1)
    assert experiment.evaluation.interval == 5
    assert origins[f"{KPT}.mask_ratio"] == origins["optimizer.lr"] == str(path)


@pytest.mark.parametrize("other", ["optimizer: {lr: 2}", "optimizer.lr: 2", "optimizer: 3"])
def test_a_value_given_in_two_ways_is_refused(tmp_path: Path, other: str) -> None:
    with pytest.raises(UserError, match=r"optimizer.* given twice"):
        load_experiment(write(tmp_path, f"exp_name: a\nlr: 1\n{other}"))


def test_trials_of_a_sweep_take_short_keys() -> None:
    sweep = Sweep(name="s", base="maskedkd_v2", grid={"mask_ratio": (0.2, 0.5)})
    assert [ratios(trial.experiment) for trial in expand(sweep)] == [[0.2, 0.2], [0.5, 0.5]]
    own = sweep.model_copy(update={"keys": {"mask_ratio": f"{VIS}.mask_ratio"}})
    assert [ratios(trial.experiment) for trial in expand(own)] == [[0.2, 0.3], [0.5, 0.3]]


@pytest.mark.parametrize(
    ("key", "hints"),
    [
        ("interval", ["checkpoint_config.interval", "evaluation.interval", "log_config.interval"]),
        ("tokenpose_cfg.depth", ["'model.keypoint_head.tokenpose_cfg'"]),
        ("model.keypoint_head.mask_ratio", [f"'{VIS}.mask_ratio'", f"'{KPT}.mask_ratio'"]),
        ("mask_ration", ["'mask_ratio'"]),
        ("sample_per_gpu", ["'samples_per_gpu'"]),
        ("max_keep_ckpt", ["'max_keep_ckpts'"]),
        ("flip_tests", ["'model.test_cfg.flip_test'"]),
        ("batch_size", ["'data.samples_per_gpu'"]),
        ("epochs", ["'total_epochs'"]),
        ("optimizer.learning_rate", ["'optimizer.lr'"]),
        ("zzz", ["sdpose config keys"]),
    ],
)
def test_an_unknown_key_is_answered_with_the_keys_that_it_may_mean(
    tmp_path: Path, key: str, hints: list[str]
) -> None:
    sweep = Sweep(name="s", base="maskedkd_v2", grid={key: (1, 2)})
    attempts = [
        lambda: load_experiment("maskedkd_v2", [f"{key}=1"]),
        lambda: load_experiment(write(tmp_path, f"base: maskedkd_v2\n{key}: 1")),
        lambda: expand(sweep),
    ]
    for attempt in attempts:
        with pytest.raises(UserError, match="unknown key") as error:
            attempt()
        [line] = str(error.value).splitlines()
        assert all(hint in line for hint in hints), line


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("ratio_0.5", ("mask_ratio", 0.5)),
        ("weight_1e4", ("loss_weight", 1e-4)),
        ("importance", ("mask_strategy", "importance")),
    ],
)
def test_the_experiments_of_the_users_guide(name: str, changed: tuple[str, object]) -> None:
    experiment = load_experiment(f"maskedkd_{name}")
    assert experiment.exp_name == f"sdpose_s_v1_maskedkd_{name}"
    differences = experiment_differences(load_experiment("maskedkd_v2"), experiment)
    key, value = changed
    assert {k: new for k, (_, new) in differences.items() if k not in ("exp_name", "work_dir")} == {
        f"{VIS}.{key}": value,
        f"{KPT}.{key}": value,
    }


def test_the_sweep_has_the_values_of_the_users_guide() -> None:
    trials = expand(load_sweep("maskedkd_guide"), rungs="rungs")
    assert {tuple(trial.settings.values()) for trial in trials} == set(
        itertools.product((0.2, 0.3, 0.5), (1e-6, 5e-6, 1e-5), ("random", "importance"))
    )
    for trial in trials:
        head = trial.experiment.model.keypoint_head
        for loss in (head.loss_vis_token_dist, head.loss_kpt_token_dist):
            assert loss is not None
            values = (loss.mask_ratio, loss.loss_weight, loss.mask_strategy)
            assert values == tuple(trial.settings.values())
