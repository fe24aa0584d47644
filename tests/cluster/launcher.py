"""Processes that a test can kill: `python -m tests.cluster.launcher job|pipeline FOLDER`.

FOLDER holds experiment.yaml and cluster.yaml; the run's id is $SDPOSE_RUN_ID.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from components.launcher.launch import log_to_stdout, run_job
from components.profile import dump_cluster, load_cluster
from pipelines.local.run_local import run_here
from pipelines.sdpose_pipeline import make_pipeline
from sdpose.code_version import code_version
from sdpose.config import dump_experiment, load_experiment


def main(what: str, folder: Path) -> None:
    experiment = load_experiment(folder / "experiment.yaml")
    cluster = load_cluster(folder / "cluster.yaml")
    if what == "job":
        run_id = os.environ["SDPOSE_RUN_ID"]
        log_to_stdout()
        run_job(experiment, cluster, run_id=run_id, log=folder / "log.txt")
    else:
        # The cluster's own pipeline, its steps run here one after the other by kfp's local runner.
        arguments = {
            "experiment": dump_experiment(experiment),
            "code_version": code_version(),
            "cluster_profile": dump_cluster(cluster),
            "runner": "local",
            "promote_to": "candidate",
            "approver": "kim",
        }
        pipeline = make_pipeline(cluster, check=False, promotes=True)
        run_here(pipeline, arguments, Path(experiment.work_dir), cache=False)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
