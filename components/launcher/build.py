"""The training job's manifest as a plain dict: pure functions, no cluster needed.

A PyTorchJob (Training Operator v1) says everything itself. A TrainJob (Kubeflow Trainer v2.2 or
newer) patches the runtime that it names (`cluster.runtime`) in what it may; what it may not set
(priority class, pull policy, TTL) is the runtime's: `runtime.py` compares it with the profile.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import yaml

from components.launcher import pod
from components.launcher.kinds import (
    TRAINER_CONTAINER,
    TRAINER_GROUP,
    TRAINER_JOB,
    TRAINER_VERSION,
)
from components.launcher.pod import Object
from components.profile import Cluster
from sdpose.config import Experiment, experiment_digest
from sdpose.errors import UserError

API_VERSION = "kubeflow.org/v1"
CONTAINER = "pytorch"  # the operator refuses any other name

# The operator adds '-worker-N' for pods and their Services, whose names have 63 characters at most;
# a TrainJob's pods get '-node-0-N-xxxxx'.
NAME_LENGTH = 46
HASH_LENGTH = 10

DIGEST_ANNOTATION = "sdpose/digest"

PATCH_MANAGER = "sdpose.launcher/patch"


def job_name(experiment: Experiment, run_id: str) -> str:
    """The same for the same run and experiment, so that a restarted launcher finds its job.

    run_id: the pipeline run's. A DNS-1035 label: the end of exp_name, for people, and a hash.
    """
    identity = f"{run_id}\n{experiment_digest(experiment)}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:HASH_LENGTH]
    words = re.sub(r"[^a-z0-9]+", "-", experiment.exp_name.lower())
    words = words[-(NAME_LENGTH - HASH_LENGTH - 1) :].lstrip("-0123456789").rstrip("-")
    return f"{words or 'sdpose'}-{digest}"


def build_job(
    name: str, experiment: Experiment, cluster: Cluster, owner: Object | None = None
) -> Object:
    """What `cluster.train_api` names, with all that any supported cluster takes (then see `fit`).

    The digest is of that, so that an upgraded operator does not make a run's job another one.
    """
    build = {"pytorchjob": build_pytorchjob, "trainjob": build_trainjob}[cluster.train_api]
    job = build(name, experiment, cluster)
    job["metadata"]["annotations"] = {DIGEST_ANNOTATION: _digest(job)}
    if owner is not None:
        job["metadata"]["ownerReferences"] = [owner]
    return job


def build_pytorchjob(name: str, experiment: Experiment, cluster: Cluster) -> Object:
    """One master and `nodes - 1` workers, each with `gpus_per_node` processes.

    An elastic job has workers only, as the operator's elasticPolicy wants it.
    name: a DNS-1035 label, see `job_name`.
    """
    template = _pod_template(experiment, cluster)
    # ExitCode: 1..127 ends the job, 128..255 (a signal, 143 for a preempted training) creates the
    # pod again.
    replicas = {"restartPolicy": "ExitCode", "template": template}
    spec: Object = {
        "nprocPerNode": str(cluster.processes_per_node),
        "runPolicy": {
            "activeDeadlineSeconds": cluster.active_deadline_seconds,
            "cleanPodPolicy": "Running",
            "ttlSecondsAfterFinished": cluster.ttl_seconds_after_finished,
        },
    }
    if cluster.queue:
        spec["runPolicy"]["suspend"] = True  # Kueue lets it start
    if cluster.elastic:
        spec["elasticPolicy"] = {
            "rdzvBackend": "c10d",
            "minReplicas": cluster.elastic.min_replicas,
            "maxReplicas": cluster.elastic.max_replicas,
            "maxRestarts": cluster.elastic.max_restarts,
        }
        spec["pytorchReplicaSpecs"] = {"Worker": {"replicas": cluster.nodes, **replicas}}
    else:
        spec["pytorchReplicaSpecs"] = {"Master": {"replicas": 1, **replicas}}
        if cluster.nodes > 1:
            spec["pytorchReplicaSpecs"]["Worker"] = {"replicas": cluster.nodes - 1, **replicas}
    return {
        "apiVersion": API_VERSION,
        "kind": "PyTorchJob",
        "metadata": {
            "name": name,
            "namespace": cluster.namespace,
            "labels": pod.labels(experiment, cluster) | pod.queue_label(cluster),
        },
        "spec": spec,
    }


def _pod_template(experiment: Experiment, cluster: Cluster) -> Object:
    container: Object = {
        "name": CONTAINER,
        "image": cluster.image,
        "imagePullPolicy": cluster.image_pull_policy,
        "command": pod.command(experiment, cluster),
        "env": pod.environment(cluster),
        "resources": pod.resources(cluster),
        "securityContext": pod.container_security(),
        "volumeMounts": pod.volume_mounts(cluster),
    }
    spec: Object = {
        "serviceAccountName": cluster.service_account,
        # Training does not talk to Kubernetes.
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod.pod_security(cluster),
        "terminationGracePeriodSeconds": cluster.termination_grace_seconds,
        "containers": [container],
        "volumes": pod.volumes(cluster),
        **pod.placement(cluster),
    }
    if cluster.priority_class:
        spec["priorityClassName"] = cluster.priority_class
    return {
        "metadata": pod.metadata(experiment, cluster),
        "spec": spec,
    }


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
                    "name": TRAINER_CONTAINER,
                    "securityContext": pod.container_security(),
                    "volumeMounts": pod.volume_mounts(cluster),
                }
            ],
            "volumes": pod.volumes(cluster),
            **pod.placement(cluster),
        },
    }
    patch = {
        "spec": {
            "replicatedJobs": [{"name": TRAINER_JOB, "template": {"spec": {"template": pod_patch}}}]
        }
    }
    # Kueue lets it start.
    suspended = {"suspend": True} if cluster.queue else {}
    return {
        "apiVersion": f"{TRAINER_GROUP}/{TRAINER_VERSION}",
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
            "runtimePatches": [
                {"manager": PATCH_MANAGER, "trainingRuntimeSpec": {"template": patch}}
            ],
        },
    }


class _Dumper(yaml.SafeDumper):
    """The experiment in a block of its own, no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(manifest: Object) -> str:
    """The manifest for people, and for `kubectl apply --server-side -f -`."""
    return yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _digest(job: Object) -> str:
    """sha256 of what was built; says whether a job of the same name is the same job."""
    return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()
