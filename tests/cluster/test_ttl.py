"""Which jobs go after ttl_seconds_after_finished, with the Training Operator v1.9.4."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.launcher.failure import JobError
from tests.cluster.conftest import Launch, until
from tests.cluster.kube import KubeCluster


def test_a_job_that_failed_by_an_exit_code_stays(
    launch: Launch, results: Path, kube: KubeCluster
) -> None:
    """docs/cluster.md says so: the operator gives it no completionTime."""
    (results / "exit-0").write_text("3")
    with pytest.raises(JobError, match="exit code 3"):
        launch("run-1", ttl_seconds_after_finished=1)
    (failed,) = kube.jobs()

    launch("run-2", ttl_seconds_after_finished=1)
    until(lambda: len(kube.jobs()) == 1)  # the one that succeeded is gone

    (results / "hold").touch()
    with pytest.raises(JobError, match="was active longer than specified deadline"):
        launch("run-3", ttl_seconds_after_finished=1, active_deadline_seconds=1)
    until(lambda: len(kube.jobs()) == 1)

    (left,) = kube.jobs()
    assert left["metadata"]["uid"] == failed["metadata"]["uid"]
    assert "completionTime" not in left["status"]
