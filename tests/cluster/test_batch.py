"""The tests' own Job controller, where its view of a pod is a moment old."""

from __future__ import annotations

from tests.cluster.kube import KubeCluster
from tests.cluster.kube.batch import Jobs
from tests.cluster.kube.store import TRACKING, StatusError


def test_pod_deleted_behind_the_controller_goes(kube: KubeCluster) -> None:
    kube.stop_operator("trainjobs")
    meta = {"name": "p", "namespace": "pose", "finalizers": [TRACKING]}
    owner = {"kind": "Job", "uid": "gone", "name": "j", "apiVersion": "batch/v1"}
    pod = {"kind": "Pod", "metadata": meta | {"ownerReferences": [owner]}, "spec": {}, "status": {}}
    key = ("", "pods", "pose", "p")
    jobs = Jobs(kube)
    with kube.store.changed:  # nobody else acts in between
        seen = kube.store.create("", "pods", pod)
        kube.store.delete(key)
        jobs._release(seen)
    try:
        left = kube.store.get(key)
    except StatusError:
        return
    raise AssertionError(f"nobody would ever remove {left}")
