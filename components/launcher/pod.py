"""The parts of a training pod that are the same whichever operator creates it."""

from __future__ import annotations

import math
import re
import shlex
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from components.profile import Cluster, is_s3
from sdpose.config import Experiment, dump_experiment
from sdpose.errors import UserError

Object = dict[str, Any]

# The resolved experiment travels as an annotation of the pod and is a file in it (downward API):
# one object to create, and what a pod trains is in `kubectl describe`. A ConfigMap would be a
# second object whose creation can be lost, and an argument is limited to 128 KiB.
EXPERIMENT_ANNOTATION = "sdpose/experiment"
EXPERIMENT_FILE = "/etc/sdpose/experiment.yaml"
ANNOTATIONS_LIMIT = 256 * 1024  # bytes, of all annotations of an object; Kubernetes' own
ROOM_FOR_OTHER_ANNOTATIONS = 16 * 1024

DISK = "ephemeral-storage"
ROOM_FOR_LOGS = "2Gi"

NAME_LABEL = "app.kubernetes.io/name"
EXPERIMENT_LABEL = "sdpose/experiment"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"

# An Istio sidecar would outlive training, and the pod would never be complete.
NO_SIDECAR = {"sidecar.istio.io/inject": "false"}


def command(experiment: Experiment, cluster: Cluster) -> list[str]:
    """Training on this node. A restarted pod gives the same command, and continues.

    Data on S3 is fetched by the same container, not an init container: the operator sees the exit
    code of this one alone, and would recreate a pod whose init container met a user's error.
    """
    train = ["python", "-m", "sdpose", "launch", "--", "train", EXPERIMENT_FILE]
    if not is_s3(cluster.data_root):
        return train
    fetch = ["python", "-m", "sdpose", "prepare", EXPERIMENT_FILE, "--fetch", cluster.data_root]
    return ["sh", "-c", literal(f"{shlex.join(fetch)} && exec {shlex.join(train)}")]


def literal(text: str) -> str:
    """The text as a command, an argument or a variable's value that Kubernetes does not change.

    It would replace `$(AWS_SECRET_ACCESS_KEY)` by the secret, which then is in logs and errors.

    >>> literal("s3://b/$(AWS_SECRET_ACCESS_KEY)/$x")
    's3://b/$$(AWS_SECRET_ACCESS_KEY)/$x'
    """
    return re.sub(r"\$(?=[$(])", "$$", text)


def environment(cluster: Cluster) -> list[Object]:
    """Variables of the container: ours, the profile's, and those from Secrets."""
    variables: list[Object] = [
        {"name": name, "value": literal(value)}
        for name, value in ({"TMPDIR": "/tmp"} | cluster.places_to_write | cluster.env).items()
    ]
    variables += [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": secret.name, "key": secret.key}}}
        for name, secret in cluster.secrets.items()
    ]
    return variables


def volumes(cluster: Cluster) -> list[Object]:
    found: list[Object] = [
        {
            "name": "experiment",
            "downwardAPI": {
                "items": [
                    {
                        "path": EXPERIMENT_FILE.rpartition("/")[2],
                        "fieldRef": {
                            "fieldPath": f"metadata.annotations['{EXPERIMENT_ANNOTATION}']"
                        },
                    }
                ]
            },
        },
        {"name": "tmp", "emptyDir": {"sizeLimit": cluster.tmp_size}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": cluster.shm_size}},
    ]
    if cluster.needs_scratch:
        found.append({"name": "scratch", "emptyDir": {"sizeLimit": cluster.scratch.size}})
    for number, volume in enumerate(cluster.volumes):
        claim: Object = {"claimName": volume.claim}
        if volume.read_only:
            claim["readOnly"] = True
        found.append({"name": f"volume-{number}", "persistentVolumeClaim": claim})
    return found


def volume_mounts(cluster: Cluster) -> list[Object]:
    mounts: list[Object] = [
        {
            "name": "experiment",
            "mountPath": EXPERIMENT_FILE.rpartition("/")[0],
            "readOnly": True,
        },
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "shm", "mountPath": "/dev/shm"},
    ]
    if cluster.needs_scratch:
        mounts.append({"name": "scratch", "mountPath": cluster.scratch.path})
    for number, volume in enumerate(cluster.volumes):
        mount: Object = {"name": f"volume-{number}", "mountPath": volume.path}
        if volume.read_only:
            mount["readOnly"] = True
        mounts.append(mount)
    return mounts


def resources(cluster: Cluster) -> Object:
    """Requests and limits; GPUs are a limit, which is their request too."""
    limits, requests = dict(cluster.resources.limits), dict(cluster.resources.requests)
    # Kueue admits nothing that asks for a resource which its ClusterQueue does not cover.
    if DISK not in limits and not cluster.queue:
        limits[DISK] = disk_limit(cluster)
        # Without a request the limit would be it, and a node with less disk would not do.
        requests.setdefault(DISK, "0")
    if cluster.gpus_per_node:
        limits[cluster.accelerator] = str(cluster.gpus_per_node)
    both = {"requests": requests, "limits": limits}
    return {key: value for key, value in both.items() if value}


def disk_limit(cluster: Cluster) -> str:
    """Of the pod on its node's disk: what its emptyDirs may hold, and room for its logs. More would
    fill the disk for all pods of the node."""
    parts = [cluster.tmp_size, ROOM_FOR_LOGS, *([cluster.scratch.size] * cluster.needs_scratch)]
    mebibytes = math.ceil(sum(parse_quantity(part) for part in parts) / 2**20)
    return f"{mebibytes // 1024}Gi" if mebibytes % 1024 == 0 else f"{mebibytes}Mi"


def container_security() -> Object:
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def pod_security(cluster: Cluster) -> Object:
    security = cluster.security
    return {
        "runAsNonRoot": True,
        "runAsUser": security.run_as_user,
        "runAsGroup": security.run_as_group,
        "fsGroup": security.fs_group,
        # Without it, every start changes the owner of all files of COCO.
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def placement(cluster: Cluster) -> Object:
    """Which nodes, and with which registry's credentials; only what is set."""
    tolerations = [
        {
            key: value
            for key, value in {
                "key": each.key,
                "operator": each.operator,
                "value": each.value,
                "effect": each.effect,
                "tolerationSeconds": each.toleration_seconds,
            }.items()
            if value is not None
        }
        for each in cluster.tolerations
    ]
    found = {
        "imagePullSecrets": [{"name": name} for name in cluster.image_pull_secrets],
        "nodeSelector": dict(cluster.node_selector),
        "tolerations": tolerations,
    }
    return {key: value for key, value in found.items() if value}


def queue_label(cluster: Cluster) -> dict[str, str]:
    """Of the job alone: it, not its pods, is what Kueue admits."""
    return {QUEUE_LABEL: cluster.queue} if cluster.queue else {}


def labels(experiment: Experiment, cluster: Cluster) -> dict[str, str]:
    """Of the job and its pods."""
    return cluster.labels | {
        NAME_LABEL: "sdpose",
        # A label's value has 63 characters at most and ends with a letter or digit.
        EXPERIMENT_LABEL: experiment.exp_name[:63].rstrip("-_."),
    }


def metadata(experiment: Experiment, cluster: Cluster) -> Object:
    """Of a pod; raises UserError if the experiment is too long to travel in it."""
    document = dump_experiment(experiment)
    size, limit = len(document.encode()), ANNOTATIONS_LIMIT - ROOM_FOR_OTHER_ANNOTATIONS
    if size > limit:
        raise UserError(
            f"{experiment.exp_name}: the resolved experiment has {size} bytes; a pod can carry "
            f"{limit}"
        )
    return {
        "labels": labels(experiment, cluster) | NO_SIDECAR,
        "annotations": NO_SIDECAR | cluster.annotations | {EXPERIMENT_ANNOTATION: document},
    }
