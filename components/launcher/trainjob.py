"""The same job as a TrainJob (Kubeflow Trainer v2.2 or newer).

A TrainJob patches the runtime that it names (`cluster.runtime`) in what it may. What it may not set
(priority class, pull policy, TTL) is the runtime's: `runtime.py` compares it with the profile.
"""

from __future__ import annotations

from components.launcher import pod
from components.launcher.pod import Object
from components.profile import Cluster
from sdpose.config import Experiment
from sdpose.errors import UserError

GROUP, VERSION = "trainer.kubeflow.org", "v1alpha1"
JOB = CONTAINER = "node"  # in every runtime for PyTorch
MANAGER = "sdpose.launcher/patch"

# What the oldest Trainer does not take, and the runtime says as well: see `fit`.
OPTIONAL: tuple[tuple[str | int, ...], ...] = (
    # Since 2.3.
    (
        *("spec", "runtimePatches", 0, "trainingRuntimeSpec", "template"),
        *("spec", "replicatedJobs", 0, "template"),
        *("spec", "template", "spec", "terminationGracePeriodSeconds"),
    ),
)


def build_trainjob(name: str, experiment: Experiment, cluster: Cluster) -> Object:
    """`nodes` pods with `gpus_per_node` processes each, as the newest Trainer takes it.

    Raises UserError for what neither a TrainJob nor its runtime can say.
    """
    if cluster.elastic:
        raise UserError(
            "train_api: trainjob cannot be elastic (Kubeflow Trainer has removed it): leave "
            "elastic out of the profile, or use train_api: pytorchjob"
        )
    pod_patch = {
        "metadata": pod.metadata(experiment, cluster),
        "spec": {
            "serviceAccountName": cluster.service_account,
            "securityContext": pod.pod_security(cluster),
            "terminationGracePeriodSeconds": cluster.termination_grace_seconds,
            "containers": [
                {
                    "name": CONTAINER,
                    "securityContext": pod.container_security(),
                    "volumeMounts": pod.volume_mounts(cluster),
                }
            ],
            "volumes": pod.volumes(cluster),
            **pod.placement(cluster),
        },
    }
    patch = {
        "spec": {"replicatedJobs": [{"name": JOB, "template": {"spec": {"template": pod_patch}}}]}
    }
    # Kueue lets it start.
    suspended = {"suspend": True} if cluster.queue else {}
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": {
            "name": name,
            "namespace": cluster.namespace,
            "labels": pod.labels(experiment, cluster) | pod.queue_label(cluster),
        },
        "spec": {
            "runtimeRef": {"kind": cluster.runtime_kind, "name": cluster.runtime},
            "activeDeadlineSeconds": cluster.active_deadline_seconds,
            **suspended,
            "trainer": {
                "image": cluster.image,
                "command": pod.command(experiment, cluster),
                "env": pod.environment(cluster),
                "numNodes": cluster.nodes,
                "numProcPerNode": cluster.processes_per_node,
                "resourcesPerNode": pod.resources(cluster),
            },
            "runtimePatches": [{"manager": MANAGER, "trainingRuntimeSpec": {"template": patch}}],
        },
    }
