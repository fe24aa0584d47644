from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.cluster import Cluster, parse_cluster
from sdpose.config import Experiment, load_experiment
from tests.cluster.kube import KubeCluster
from tests.conftest import shared_path

IMAGE = "registry.test/sdpose@sha256:" + "1" * 64


@pytest.fixture
def kube(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeCluster]:
    """A cluster of its own; $KUBECONFIG points at it. Its kubelet mounts, so it needs root."""
    if os.geteuid() != 0 or sys.platform != "linux":
        message = "the test kubelet needs root on Linux, for its mounts"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(message)
    for name in ("KUBERNETES_SERVICE_HOST", "KFP_POD_NAME", "POD_NAME", "POD_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    with KubeCluster(tmp_path / "kube", shared_path("crds")) as cluster:
        cluster.claims["results"] = tmp_path / "results"
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig()))
        yield cluster


@pytest.fixture
def profile() -> Cluster:
    """Two nodes of one CPU process each."""
    return parse_cluster(
        f"""
        namespace: pose
        image: {IMAGE}
        nodes: 2
        gpus_per_node: 0
        volumes: [{{claim: results, path: /results}}]
        data_root: /results/data
        work_dirs: /results
        termination_grace_seconds: 5
        """
    )


@pytest.fixture
def experiment(profile: Cluster) -> Experiment:
    return load_experiment("quickstart", **profile.places("quickstart"))
