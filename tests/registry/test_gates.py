"""Gates measure for themselves what the record does not say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from made import Register, with_promotion, write_checkpoint

from sdpose.config import Experiment, load_experiment, parse_experiment
from sdpose.evaluation import EvaluationResult, evaluate
from sdpose.models import build_model, load_weights
from sdpose.prepare.dataset import prepare_coco
from sdpose.registry.promote import promote
from sdpose.registry.register import register_checkpoint
from sdpose.runner.train import train
from sdpose.storage import Store
from sdpose.tools.synthetic.dataset import write_synthetic_coco

TINY = Path(__file__).parents[1] / "pipelines/tiny.yaml"


@dataclass(frozen=True)
class Trained:
    experiment: Experiment
    checkpoint: Path
    dataset_digest: str

    def evaluated(self, experiment: Experiment | None = None) -> EvaluationResult:
        model = build_model(self.experiment.model)
        load_weights(model, self.checkpoint)
        return evaluate(model, experiment or self.experiment, device="cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A model that has learnt its few validation images by heart: AP about 0.4."""
    folder = tmp_path_factory.mktemp("trained")
    write_synthetic_coco(folder / "coco", num_train=4, num_val=1, seed=0)
    changes = (
        "model.backbone.width=16",
        "model.keypoint_head.tokenpose_cfg.dim=48",
        "train_pipeline={flip_prob: 0, rot_prob: 0, scale_factor: 0, prob_half_body: 0}",
        "data.val={ann_file: annotations/person_keypoints_train2017.json, img_prefix: train2017}",
        "data.workers_per_gpu=0",
        "data_cfg.use_gt_bbox=true",
        "optimizer.lr=5e-3",
        "total_epochs=200",
        "evaluation.interval=200",
        "checkpoint_config.interval=200",
        "log_config={interval: 200, hooks: []}",
    )
    experiment = load_experiment(
        TINY, changes, data_root=str(folder / "coco"), work_dir=str(folder / "work")
    )
    result = train(experiment)
    assert result.best_checkpoint is not None
    digest = prepare_coco(experiment, with_pack=False).digest
    return Trained(experiment, result.best_checkpoint, digest)


@pytest.mark.slow
@pytest.mark.parametrize("differing", ["dataset", "settings"])
def test_the_present_version_is_evaluated_again(
    store: Store, trained: Trained, tmp_path: Path, differing: str
) -> None:
    """On the data and by the settings of the new one, whatever was registered with it."""
    document = trained.experiment.model_dump(mode="json")
    if differing == "settings":
        document["model"]["test_cfg"]["flip_test"] = False
    experiment = parse_experiment(document)
    by_new_settings = trained.evaluated(experiment)
    ap = by_new_settings.metrics["AP"]
    assert ap > 0.1
    champion, digest = trained.checkpoint, trained.dataset_digest
    if differing == "dataset":
        content = torch.load(champion, weights_only=True)
        content["meta"]["dataset_digest"] = digest = "another"
        torch.save(content, champion := tmp_path / "on_other_data.pth")
    register_checkpoint(
        "tiny",
        champion,
        experiment=trained.experiment,
        dataset_digest=digest,
        metrics={"AP": 0.99},
        evaluation_settings=trained.evaluated().settings,
        root=store,
    )
    for seed, better in ((1, 0.02), (2, 0.04)):
        register_checkpoint(
            "tiny",
            write_checkpoint(tmp_path / f"{seed}.pth", experiment, seed),
            experiment=with_promotion(experiment, margin=0.03),
            dataset_digest=trained.dataset_digest,
            metrics={"AP": ap + better},
            evaluation_settings=by_new_settings.settings,
            root=store,
        )
    assert promote(store, "tiny", 1, "production", approver="kim")["allowed"]
    refused = promote(store, "tiny", 2, "production", approver="kim")
    allowed = promote(store, "tiny", 3, "production", approver="kim")
    assert (refused["allowed"], allowed["allowed"]) == (False, True)
    for record in (refused, allowed):
        (verdict,) = [each for each in record["gates"] if each["gate"] == "better"]
        assert verdict["present_ap"] == pytest.approx(ap, abs=1e-6)
        assert "evaluated again" in verdict["reason"]


def test_figures_of_another_skeleton_are_never_compared(
    store: Store, experiment: Experiment, tmp_path: Path
) -> None:
    """As many keypoints and equal sigmas, so that every tensor and every figure would fit."""
    document = experiment.model_dump(mode="json")
    names = [f"paw{number}" for number in range(17)]
    document["skeleton"] = {
        "keypoints": names,
        "flip_pairs": [],
        "sigmas": document["skeleton"]["sigmas"],
    }
    animal = parse_experiment(document)
    for seed, (of, settings) in enumerate([(experiment, {}), (animal, {"keypoints": names})]):
        register_checkpoint(
            "tiny",
            write_checkpoint(tmp_path / f"{seed}.pth", of, seed),
            experiment=of,
            dataset_digest="d",
            metrics={"AP": 0.5 + seed / 10},
            evaluation_settings=settings,
            root=store,
        )
    assert promote(store, "tiny", 1, "production", approver="kim")["allowed"]
    refused = promote(store, "tiny", 2, "production", approver="kim")
    assert not refused["allowed"]
    (verdict,) = [each for each in refused["gates"] if each["gate"] == "better"]
    assert "the two models predict different keypoints: paw0, paw1" in verdict["reason"]


def test_budgets(store: Store, register: Register, experiment: Experiment) -> None:
    wide = with_promotion(experiment, max_latency_ms=60_000, max_size_mb=6)
    narrow = with_promotion(experiment, max_latency_ms=0.001, max_size_mb=4)
    register(1, experiment=wide)
    register(2, experiment=narrow)
    record = promote(store, "tiny", 1, "staging", approver="kim")
    measured = next(each for each in record["gates"] if each["gate"] == "latency")
    assert record["allowed"]
    assert measured["milliseconds"] > 0
    assert measured["machine"].startswith(
        torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU, "
    )
    refused = promote(store, "tiny", 2, "staging", approver="kim")
    assert [v["gate"] for v in refused["gates"] if not v["passed"]] == ["latency", "size"]
    assert promote(*(store, "tiny", 2, "staging"), rules=wide.promotion, approver="kim")[
        "allowed"
    ], "by other rules than those that it was registered with"
