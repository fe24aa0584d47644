"""A setting that does nothing is a bug: real runs read every key of the schema.

Reading means that code outside of `sdpose.config` takes the value from the experiment; validation,
and writing the whole experiment down, do not count.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from sdpose.config import Experiment, load_experiment
from sdpose.config.schema import Section
from sdpose.registry.gates import gates_for
from sdpose.registry.promote import promote_run
from sdpose.registry.register_run import register_run
from sdpose.runner.train import train
from sdpose.storage import open_store
from sdpose.tools.synthetic.dataset import write_synthetic_coco

TINY = (
    "model.backbone={width: 4, num_blocks: 1}",
    "model.keypoint_head.tokenpose_cfg={patch_size: [8, 6], dim: 16, depth: 1, heads: 2}",
    "data_cfg.image_size=[48, 64]",
    "data_cfg.heatmap_size=[12, 16]",
    "data={samples_per_gpu: 4, workers_per_gpu: 0}",
    "total_epochs=1",
)
# Some keys are read only where another one has a certain value.
VARIANTS = {
    "masked, Adam, cosine": (
        "model.keypoint_head.loss_vis_token_dist={type: MaskedTokenDistilLoss}",
        "model.keypoint_head.loss_kpt_token_dist={type: MaskedTokenDistilLoss}",
        "lr_config={policy: cosine, warmup_iters: 1}",
        "optimizer_config.grad_clip={max_norm: 1.0}",
        "data_cfg.use_gt_bbox=true",
        "data={samples_per_gpu: 4, workers_per_gpu: 0, pipeline: fast}",
        "promotion={min_ap: 0.1, max_latency_ms: 1000, max_size_mb: 100}",
        "ema={decay: 0.9}",
    ),
    "SGD, step, skip, detections asked for": (
        "optimizer={type: SGD, lr: 1e-4}",
        "lr_config={policy: step, step: [1]}",
        "early_stopping={folder: rungs, min_epochs: 1, reduction_factor: 2}",
        "total_epochs=2",
        "evaluation.interval=1",
        "data.on_corrupt=skip",
        "data_cfg.use_gt_bbox=false",
    ),
}
# Properties of a skeleton, which are its keys as indices.
VIEWS = {"flip_index": "flip_pairs", "limb_indices": "limbs", "is_upper": "upper_body"}


def keys(section: type[BaseModel]) -> set[tuple[str, str]]:
    """(section, key) of the whole schema below `section`."""
    found = set()
    for name, field in section.model_fields.items():
        found.add((section.__name__, name))
        for type_ in (field.annotation, *get_args(field.annotation)):
            if isinstance(type_, type) and issubclass(type_, BaseModel):
                found |= keys(type_)
    return found


@pytest.mark.slow
def test_every_key_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_root = tmp_path / "coco"
    write_synthetic_coco(data_root, num_train=4, num_val=2, seed=0)
    val = json.loads((data_root / "annotations/person_keypoints_val2017.json").read_text())
    found = {"image_id": val["images"][0]["id"], "category_id": 1, "score": 0.9}
    (data_root / "detections.json").write_text(json.dumps([found | {"bbox": [10, 10, 50, 80]}]))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("SDPOSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    monkeypatch.setenv("SDPOSE_REGISTRY", str(tmp_path / "registry"))
    store = open_store(tmp_path / "registry")
    read: set[tuple[str, str]] = set()

    def record(self: Section, name: str) -> Any:
        key = VIEWS.get(name, name)
        if key in type(self).model_fields:
            caller = sys._getframe(1).f_globals.get("__name__", "")
            if caller.startswith("sdpose.") and not caller.startswith("sdpose.config"):
                read.add((type(self).__name__, key))
        return super(Section, self).__getattribute__(name)

    experiments = [
        load_experiment(
            "sdpose_s_v1",
            [*TINY, *changes, f"exp_name=run{index}", "data_cfg.bbox_file=detections.json"],
            data_root=str(data_root),
        )
        for index, changes in enumerate(VARIANTS.values())
    ]
    with monkeypatch.context() as patch:
        patch.setattr(Section, "__getattribute__", record, raising=False)
        for experiment in experiments:
            trained = train(experiment)
            metrics = {**trained.best_metrics, "settings": {"bbox_source": "ground truth"}}
            (tmp_path / "results.metrics.json").write_text(json.dumps(metrics))
            version = register_run(
                experiment,
                checkpoint=trained.last_checkpoint,
                trained_as=trained.last_checkpoint,
                results=tmp_path / "results.json",
                dataset_digest=trained.dataset_digest,
                mlflow_run_id=trained.mlflow_run_id or "",
                runner="local",
                git_commit="",
            )
            promote_run(experiment, version.version, "candidate", approver="test", data_source="")
            gates_for(store, version)({"version": version.version})  # against a present version

    unread = keys(Experiment) - read
    assert not unread, f"keys that no code reads: {sorted('.'.join(key) for key in unread)}"
