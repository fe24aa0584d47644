"""One of several processes that evaluate together: argv = rank, world size, rendezvous file,
weights, output file, experiment files."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from sdpose.config import parse_experiment
from sdpose.errors import UserError
from sdpose.evaluation import evaluate
from sdpose.models import build_model


def main() -> None:
    rank, world_size, rendezvous, weights, out, *experiment_files = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=int(rank), world_size=int(world_size)
    )
    outcomes = []
    for file in experiment_files:
        experiment = parse_experiment(Path(file).read_text())
        model = build_model(experiment.model)
        model.load_state_dict(torch.load(weights, weights_only=True))
        try:
            result = evaluate(model, experiment, device="cpu")
        except UserError as error:
            outcomes.append({"error": str(error)})
            continue
        arrays = {key: getattr(result, key) for key in ("keypoints_array", "scores", "box_keys")}
        tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
        outcomes.append({"metrics": result.metrics, **tensors})
    torch.save(outcomes, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
