"""The same job as a TrainJob (Kubeflow Trainer v2.2 or newer).

The runtime (`cluster.runtime`) is the platform's; a TrainJob patches what it may. What it may not
set (priority class, elasticity, pull policy, TTL) belongs into the runtime.
"""

from __future__ import annotations

from components.cluster import Cluster
from components.pytorchjob import pod
from components.pytorchjob.pod import Object
from sdpose.config import Experiment
from sdpose.errors import UserError

API_VERSION = "trainer.kubeflow.org/v1alpha1"
JOB = CONTAINER = "node"  # in every runtime for PyTorch
MANAGER = "sdpose.launcher/patch"


def build_trainjob(name: str, experiment: Experiment, cluster: Cluster) -> Object:
    """`nodes` pods with `gpus_per_node` processes each.

    Raises UserError for what a TrainJob cannot say.
    """
    refused = {
        "priority_class": cluster.priority_class,
        "elastic": cluster.elastic,
        "image_pull_policy": cluster.image_pull_policy != "IfNotPresent",
    }
    if given := [key for key, value in refused.items() if value]:
        raise UserError(
            f"train_api: trainjob cannot set {', '.join(given)}: put it into the runtime "
            f"'{cluster.runtime}' and leave it out here, or use train_api: pytorchjob"
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
    return {
        "apiVersion": API_VERSION,
        "kind": "TrainJob",
        "metadata": {
            "name": name,
            "namespace": cluster.namespace,
            "labels": pod.labels(experiment, cluster) | pod.queue_label(cluster),
        },
        "spec": {
            "runtimeRef": {"kind": cluster.runtime_kind, "name": cluster.runtime},
            "activeDeadlineSeconds": cluster.active_deadline_seconds,
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
