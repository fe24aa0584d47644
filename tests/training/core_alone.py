"""Trains an experiment with the core alone, where no service can be imported.

python core_alone.py EXPERIMENT_FILE
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder

SERVICES = [
    *("boto3", "botocore", "s3transfer", "mlflow", "requests", "kfp", "kubernetes", "tensorboard"),
    *("components", "pipelines"),
    *("sdpose.storage", "sdpose.tracking", "sdpose.registry", "sdpose.outputs", "sdpose.runner"),
    *("sdpose.sweeps", "sdpose.comparison", "sdpose.report", "sdpose.checks", "sdpose.inference"),
    *("sdpose.tools", "sdpose.cli", "sdpose.pack_store"),
]


class Fence(MetaPathFinder):
    def find_spec(self, name: str, *_: object) -> None:
        if any(name == service or name.startswith(f"{service}.") for service in SERVICES):
            raise ImportError(f"the core imports {name}")


def main(experiment_file: str) -> None:
    sys.meta_path.insert(0, Fence())
    import torch

    from sdpose.config import load_experiment
    from sdpose.prepare.dataset import prepare_coco
    from sdpose.training.distributed import World
    from sdpose.training.log_lines import PrintedEvents
    from sdpose.training.loop import train_epochs
    from sdpose.training.outputs import LocalOutputs
    from sdpose.training.run import SkipImages, build_run
    from sdpose.training.stop import NeverStop

    experiment = load_experiment(experiment_file)
    run = build_run(
        experiment,
        World(rank=0, size=1, device=torch.device("cpu")),
        stop=NeverStop(),
        events=PrintedEvents(),
        checkpoint=None,
        dataset_digest=prepare_coco(experiment).digest,
        skip_images=SkipImages(),
        pack=None,
    )
    keep = experiment.checkpoint_config.max_keep_ckpts
    run.outputs = LocalOutputs(run.paths.checkpoints, keep=keep)
    train_epochs(run)


if __name__ == "__main__":
    main(sys.argv[1])
