"""What a training pod may take of its node's disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.launcher.pod import resources, volumes
from components.profile import load_cluster

CLUSTER = Path(__file__).with_name("cluster.yaml")


@pytest.mark.parametrize(
    ("changes", "limit", "request_"),
    [
        ({}, "12Gi", "0"),
        ({"tmp_size": "500Mi"}, "2548Mi", "0"),
        ({"work_dirs": "s3://bucket/work"}, "112Gi", "0"),
        ({"resources": {"limits": {"ephemeral-storage": "50Gi"}}}, "50Gi", None),
        # Kueue would never admit a job with a resource that its ClusterQueue does not cover.
        ({"queue": "training"}, None, None),
    ],
)
def test_disk(changes: dict[str, object], limit: str | None, request_: str | None) -> None:
    cluster = load_cluster(CLUSTER, **changes)
    stated = resources(cluster)
    assert stated["limits"].get("ephemeral-storage") == limit
    assert stated.get("requests", {}).get("ephemeral-storage") == request_
    # These hold in any case, as the kubelet watches each emptyDir by itself.
    for volume in volumes(cluster):
        if "emptyDir" in volume:
            assert volume["emptyDir"]["sizeLimit"]
