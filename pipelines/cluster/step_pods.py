"""The pod of a pipeline step on a cluster: the profile's image, volumes, secrets, nodes.

(The training's own pods are built in components/launcher.)
"""

from __future__ import annotations

from typing import Any

from kfp import kubernetes

from components.launcher.pod import literal
from components.profile import Cluster, Role
from sdpose.registry.register import IMAGE_VARIABLE, RUN_ID_VARIABLE

# KFP labels every pod of a run with the run's id.
RUN_ID_LABEL = "pipeline/runid"
# Autoscalers that tidy up move no pod that says so. KFP starts no pod again that was lost.
STAYS = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}


def configure_pod(
    step: Any,
    cluster: Cluster,
    *,
    torch: bool = False,
    computes: bool = False,
    role: Role | None = None,
) -> None:
    """Gives a step the pod that the profile describes.

    Args:
        torch: the step needs PyTorch, so the training's image.
        computes: and a place to compute, on one GPU if training does on some.
        role: whose credentials it gets; None: those of training.
    """
    slim = cluster.pipelines.image or cluster.image
    image = cluster.image if torch or computes else slim
    step.container_spec.image = image
    kubernetes.set_image_pull_policy(step, cluster.image_pull_policy)
    if cluster.image_pull_secrets:
        kubernetes.set_image_pull_secrets(step, list(cluster.image_pull_secrets))
    security = cluster.security
    kubernetes.set_security_context(
        step,
        run_as_user=security.run_as_user,
        run_as_group=security.run_as_group,
        run_as_non_root=True,
    )
    for name, value in STAYS.items():
        kubernetes.add_pod_annotation(step, name, value)
    kubernetes.use_field_path_as_env(step, RUN_ID_VARIABLE, f"metadata.labels['{RUN_ID_LABEL}']")
    own = {IMAGE_VARIABLE: image} | cluster.places_to_write
    # kfp's own setters (set_env_variable, set_container_image) read the source of the whole call
    # stack each time: seconds for a pipeline.
    step.container_spec.env = {n: literal(value) for n, value in (own | cluster.env).items()}
    for name, secret in cluster.secrets_of(role).items():
        kubernetes.use_secret_as_env(step, secret.name, {secret.key: name})
    for volume in cluster.volumes:
        kubernetes.mount_pvc(step, pvc_name=volume.claim, mount_path=volume.path)
    if cluster.needs_scratch:
        kubernetes.empty_dir_mount(
            step, "scratch", cluster.scratch.path, size_limit=cluster.scratch.size
        )
    if computes:
        _configure_computation(step, cluster)


def _configure_computation(step: Any, cluster: Cluster) -> None:
    # Loader processes hand batches over in shared memory; a pod has 64 MiB by default.
    kubernetes.empty_dir_mount(
        step, "shm", "/dev/shm", medium="Memory", size_limit=cluster.shm_size
    )
    if cluster.gpus_per_node:
        step.set_accelerator_type(cluster.accelerator).set_accelerator_limit(1)
    for name, setter in {"cpu": step.set_cpu_request, "memory": step.set_memory_request}.items():
        if name in cluster.resources.requests:
            setter(cluster.resources.requests[name])
    for label, value in cluster.node_selector.items():
        kubernetes.add_node_selector(step, label, value)
    for each in cluster.tolerations:
        kubernetes.add_toleration(
            step,
            key=each.key,
            operator=each.operator,
            value=each.value,
            effect=each.effect,
            toleration_seconds=each.toleration_seconds,
        )
