"""A small model in a file, and a small dataset."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sdpose.config import Experiment, dump_experiment, load_experiment
from sdpose.models import build_model
from sdpose.tools.synthetic.dataset import write_synthetic_coco

SMALL = (
    "model.backbone={width: 8, num_blocks: 1}",
    "model.keypoint_head.tokenpose_cfg={patch_size: [16, 12], dim: 16, depth: 1, heads: 2}",
    "data.workers_per_gpu=0",
    "data_cfg.use_gt_bbox=true",
)


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("coco")
    write_synthetic_coco(root, num_train=1, num_val=6, seed=0)
    return root


@pytest.fixture(scope="module")
def experiment(coco: Path) -> Experiment:
    return load_experiment("sdpose_s_v1", [*SMALL, "exp_name=small"], data_root=str(coco))


@pytest.fixture(scope="module")
def checkpoint(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = build_model(experiment.model)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.reset_parameters()
    path = tmp_path_factory.mktemp("model") / "small.pth"
    meta = {"experiment": dump_experiment(experiment)}
    torch.save({"state_dict": model.state_dict(), "meta": meta}, path)
    return path
