"""Experiments that train from a pack."""

from __future__ import annotations

from sdpose.config import Experiment


def fast_experiment(root, pack_dir, *, batch=16, workers=0, **changes) -> Experiment:
    """pack_dir: a path or a URI."""
    return Experiment(
        exp_name="fast",
        data_root=str(root),
        data={
            "samples_per_gpu": batch,
            "workers_per_gpu": workers,
            "pipeline": "fast",
            "pack_dir": str(pack_dir),
        },
        **changes,
    )
