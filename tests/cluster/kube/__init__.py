"""A Kubernetes in miniature for tests: an API server over real HTTP, the controllers of
Training Operator, Kubeflow Trainer, JobSet and Job, and a kubelet that runs pods as processes.

    with KubeCluster(folder) as kube:
        kube.kubeconfig             # for the real client
        kube.images["image:1"] = b"#!/bin/sh ..."   # its `python`
        kube.store, kube.faults, kube.calls

It does what a client can tell from the real ones, as far as a training job needs it.
"""

from tests.cluster.kube.cluster import KubeCluster

__all__ = ["KubeCluster"]
