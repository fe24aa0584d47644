"""What only a GPU shows."""

from __future__ import annotations

import itertools

import pytest
import torch

from sdpose.config import load_experiment
from sdpose.data.loader import build_train_loader
from sdpose.data.pack import open_pack
from sdpose.losses import build_loss
from sdpose.models import build_model
from sdpose.prepare.dataset import prepare_coco
from sdpose.training.distributed import World
from sdpose.training.divergence import LossWatch
from sdpose.training.optim import build_optimizer
from sdpose.training.options import step_options
from sdpose.training.step import train_step


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("name", "skip_bad"), [("sdpose_s_v1", True), ("maskedkd_v2", False)])
def test_no_step_waits_for_the_device(dataset, tmp_path, name, skip_bad) -> None:
    """From the loader's batch to the optimizer's step, watched, with bf16 and clipping,
    uncompiled."""
    changes = [
        f"data_root={dataset}",
        "data.samples_per_gpu=8",
        "data.workers_per_gpu=0",
        "data.pipeline=fast",
        f"data.pack_dir={tmp_path}",
        "optimizer_config.grad_clip.max_norm=1.0",
    ]
    experiment = load_experiment(name, changes)
    device = torch.device("cuda")
    options = step_options(experiment, device)
    assert options.fused
    assert options.channels_last
    model = build_model(experiment.model).to(device, memory_format=torch.channels_last).train()
    optimizer = build_optimizer(model.parameters(), experiment.optimizer, fused=True)
    loss = build_loss(experiment.model.keypoint_head)
    loader = build_train_loader(experiment, pack=open_pack(prepare_coco(experiment).pack))
    watch = LossWatch(World(0, 1, device), 5.0)
    values = []
    try:
        batches = options.on_device(loader.epoch(1))
        for number, batch in enumerate(itertools.islice(batches, 6)):
            values.append(
                train_step(
                    model,
                    loss,
                    optimizer,
                    [batch],
                    lr=1e-4,
                    max_norm=1.0,
                    autocast=options.autocast(),
                    is_bad=watch.is_bad,
                    skip_bad=skip_bad,
                )
            )
            if number == 1:  # tables are on the device, kernels chosen
                torch.cuda.set_sync_debug_mode("error")
    finally:
        torch.cuda.set_sync_debug_mode("default")
        loader.close()
    assert all(step["loss"].isfinite() for step in values)
