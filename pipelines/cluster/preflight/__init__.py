"""Checks of a cluster before a run: every problem in one list, each with its remedy.

`submit.py --check` checks from where it is called, with the rights of its caller; the run's first
step checks from its pod, with the service account, secrets and network of the other steps.
"""

from __future__ import annotations

from collections.abc import Callable

from components.profile import Cluster
from pipelines.cluster.preflight import capacity, objects, services
from pipelines.cluster.preflight.images import (
    NoSuchImageError,
    UnknownImageError,
    docker_credentials,
    image_digest,
)
from pipelines.cluster.preflight.kube import Kube, NoAccessError, RefusedError
from sdpose.checks.report import Report
from sdpose.code_version import source_version
from sdpose.config import Experiment

__all__ = ["Report", "check_from_here", "check_in_cluster"]

# Besides the rights, which are asked for in two ways.
IN_NAMESPACE: dict[str, Callable[[Kube, Cluster, Report], None]] = {
    "kinds of objects": objects.check_kinds,
    "service accounts": objects.check_accounts,
    "volumes": objects.check_volumes,
    "secrets": objects.check_secrets,
    "quotas": capacity.check_quotas,
}


def check_from_here(cluster: Cluster, context: str | None = None) -> Report:
    """What can be seen from outside of the cluster. Stores and MLflow, whose secrets are the
    cluster's, are left to the run's first step. context: of the kubeconfig, if one is named."""
    report = Report("preflight")
    _check_kubernetes(cluster, report, in_cluster=False, context=context)
    report.unknown.append("stores, MLflow: only the run's first step has their secrets; it looks")
    return report


def check_in_cluster(experiment: Experiment, cluster: Cluster, submitted: str) -> Report:
    """All that can be seen from a step's pod. submitted: the `source_version` of the code that the
    run was submitted from; "" takes the image's code as it is."""
    report = Report("preflight")
    if submitted and submitted != source_version():
        report.problem(
            f"the image's code ({source_version()[:12]}) is not the code that was submitted from "
            f"({submitted[:12]}): results would be another code's",
            "build and push the image (make images) and name it in the profile, or submit from the "
            "image's commit; --any-code takes the image's code as it is",
        )
    _check_kubernetes(cluster, report, in_cluster=True)
    services.check_stores(experiment, cluster, report)
    services.check_tracking(experiment, report)
    return report


def _check_kubernetes(
    cluster: Cluster, report: Report, *, in_cluster: bool, context: str | None = None
) -> None:
    credentials = docker_credentials()
    try:
        kube = Kube(context)
        # (A step's pod is in the namespace.)
        if in_cluster or objects.check_namespace(kube, cluster, report):
            objects.check_rights(kube, cluster, report, in_cluster=in_cluster)
            for name, check in IN_NAMESPACE.items():
                try:
                    check(kube, cluster, report)
                except RefusedError as error:
                    report.unknown.append(f"{name}: {error}")
            credentials |= objects.pull_credentials(kube, cluster)
        capacity.check_nodes(kube, cluster, report)
    except NoAccessError as error:
        report.unknown.append(f"all that Kubernetes would tell: {error}")
    for image in dict.fromkeys(filter(None, (cluster.image, cluster.pipelines.image))):
        _check_image(image, credentials, report)


def _check_image(image: str, credentials: dict[str, str], report: Report) -> None:
    try:
        digest = image_digest(image, credentials)
    except NoSuchImageError as error:
        report.problem(
            f"image {image}: {error}",
            "push it, correct the profile's image, or name a Secret with the registry's "
            "credentials in image_pull_secrets",
        )
    except UnknownImageError as error:
        report.unknown.append(f"image {image}: {error}")
    else:
        report.fine.append(f"image {image} can be pulled ({digest[:19]})")
