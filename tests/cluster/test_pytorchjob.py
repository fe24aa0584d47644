"""What only a PyTorchJob has. (The life of a job of either kind: test_job_life.py.)"""

from __future__ import annotations

from pathlib import Path

import pytest

from components.launcher.failure import JobError
from tests.cluster.conftest import Launch
from tests.cluster.kube import KubeCluster


def test_operators_init_image_cannot_be_pulled(
    launch: Launch, results: Path, kube: KubeCluster
) -> None:
    del kube.images["alpine:3.10"]
    (results / "hold").touch()
    with pytest.raises(JobError, match="--pytorch-init-container-image of the Training Operator"):
        launch(pending_timeout_seconds=2)
