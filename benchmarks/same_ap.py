"""Does data.pipeline fast train as well as exact? Small runs with both, over a few seeds.

    python benchmarks/same_ap.py [--train 600] [--val 150] [--epochs 12] [--seeds 3]

Makes a synthetic dataset, trains the experiment `quickstart` on it with each pipeline and seed, and
compares the AP of the last epoch on held-out images. Samples and their order are the same in both,
so runs of one seed differ by rounding alone. Exit code 1 if the means differ by more than the
standard deviation over the seeds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import machine, show

from sdpose.config import load_experiment
from sdpose.errors import user_errors
from sdpose.runner.train import train
from sdpose.tools.synthetic.dataset import write_synthetic_coco


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--train", type=int, default=600, help="images")
    parser.add_argument("--val", type=int, default=150, help="images")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found: dict[str, list[float]] = {"exact": [], "fast": []}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_synthetic_coco(Path("coco"), num_train=args.train, num_val=args.val, seed=0)
        for seed in range(args.seeds):
            for pipeline, aps in found.items():
                changes = [
                    f"exp_name={pipeline}_{seed}",
                    f"seed={seed}",
                    f"total_epochs={args.epochs}",
                    f"evaluation.interval={args.epochs}",
                    f"data.pipeline={pipeline}",
                    "log_config.hooks=[TextLoggerHook]",
                ]
                experiment = load_experiment("quickstart", changes, data_root="coco")
                aps.append(train(experiment).best_metrics["AP"])
    rows: list[dict[str, Any]] = [
        {
            "pipeline": pipeline,
            **{f"seed {seed}": f"{ap:.4f}" for seed, ap in enumerate(aps)},
            "mean AP": f"{statistics.mean(aps):.4f}",
            "deviation": f"{statistics.stdev(aps):.4f}",
        }
        for pipeline, aps in found.items()
    ]
    report = {"ap": found, "settings": {**vars(args), "json": None}, "machine": machine()}
    show("AP of both data pipelines", rows, report, args.json)
    difference = abs(statistics.mean(found["exact"]) - statistics.mean(found["fast"]))
    if difference > max(map(statistics.stdev, found.values())):
        sys.exit(f"error: the means differ by {difference:.4f}, more than the seeds do")


if __name__ == "__main__":
    with user_errors():
        main()
