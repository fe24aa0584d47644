"""What must be in the namespace before a run: rights, accounts, volumes, secrets, queues, kinds."""

from __future__ import annotations

import base64
import json
from typing import Any

from components.cluster import Cluster
from components.pytorchjob.api import LOCAL_QUEUES
from components.pytorchjob.kinds import kind_of
from pipelines.preflight.kube import Kube, RefusedError
from sdpose.doctor.report import Report

# What the launcher asks of Kubernetes (components/pytorchjob); k8s/base/rbac.yaml grants it.
Right = tuple[str, str, str]  # API group, resource (with its subresource), verb
SHARED_MODES = {"ReadWriteMany"}


def rights(cluster: Cluster) -> list[Right]:
    job = kind_of(cluster).resource
    wanted = [
        (job.group, job.plural, v) for v in ("get", "list", "watch", "create", "patch", "delete")
    ]
    wanted += [("", "pods", verb) for verb in ("get", "list", "watch")]
    wanted += [("", "pods/log", "get"), ("", "events", "list")]
    if cluster.queue:
        wanted.append(("kueue.x-k8s.io", "workloads", "list"))
    return wanted


def check_rights(kube: Kube, cluster: Cluster, report: Report, *, in_cluster: bool) -> None:
    """Of the steps' service account: in its pod by asking for oneself, elsewhere on its behalf."""
    account = cluster.pipelines.service_account
    if not in_cluster and account is None:
        report.unknown.append(
            "rights of the launcher: the profile names no pipelines.service_account; the run's "
            "first step looks again"
        )
        return
    who = f"service account {account}" if account else "the steps' service account"
    missing = []
    for group, resource, verb in rights(cluster):
        name, _, subresource = resource.partition("/")
        attributes = {
            "namespace": cluster.namespace,
            "group": group,
            "resource": name,
            "subresource": subresource,
            "verb": verb,
        }
        spec: dict[str, object] = {"resourceAttributes": attributes}
        path = "/apis/authorization.k8s.io/v1/"
        kind = "SelfSubjectAccessReview"
        if in_cluster:
            path += "selfsubjectaccessreviews"
        else:
            path += f"namespaces/{cluster.namespace}/localsubjectaccessreviews"
            kind = "LocalSubjectAccessReview"
            spec["user"] = f"system:serviceaccount:{cluster.namespace}:{account}"
            spec["groups"] = [
                "system:serviceaccounts",
                f"system:serviceaccounts:{cluster.namespace}",
                "system:authenticated",
            ]
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
        if not in_cluster:
            body["metadata"] = {"namespace": cluster.namespace}
        try:
            answer = kube.create(path, body)
        except RefusedError as error:
            report.unknown.append(f"rights of {who}: {error}; the run's first step looks again")
            return
        if not answer.get("status", {}).get("allowed"):
            missing.append(f"{verb} {resource}" + (f" ({group})" if group else ""))
    if missing:
        report.problem(
            f"{who} may not: {', '.join(missing)}; in namespace {cluster.namespace}",
            "kubectl apply -k k8s/base binds the Role sdpose-launcher to sdpose-pipeline; name "
            "that in pipelines.service_account, or bind the Role to yours",
        )
    else:
        report.fine.append(f"{who} has all {len(rights(cluster))} rights of the launcher")


def check_kinds(kube: Kube, cluster: Cluster, report: Report) -> None:
    """The operator's kind, the runtime that is named, Kueue's queue, the priority class."""
    kind = kind_of(cluster)
    group, version, jobs = kind.resource.group, kind.resource.version, kind.resource.plural
    known = kube.get(f"/apis/{group}/{version}")
    if known and any(resource["name"] == jobs for resource in known.get("resources", [])):
        report.fine.append(f"{jobs}.{group}/{version} are known")
    else:
        report.problem(
            f"this cluster knows no {jobs}.{group}/{version}",
            f"install {kind.operator}, or choose the other --train-api",
        )
    if cluster.train_api == "trainjob":
        runtimes = f"{cluster.runtime_kind.lower()}s"
        scope = f"namespaces/{cluster.namespace}/" if runtimes == "trainingruntimes" else ""
        _exists(
            kube,
            report,
            f"/apis/{group}/{version}/{scope}{runtimes}/{cluster.runtime}",
            f"{cluster.runtime_kind} {cluster.runtime}",
            "correct the profile's runtime and runtime_kind, or have it installed",
        )
    if cluster.queue:
        _exists(
            kube,
            report,
            LOCAL_QUEUES.path(cluster.namespace, cluster.queue),
            f"Kueue's LocalQueue {cluster.queue}",
            f"kubectl -n {cluster.namespace} get localqueues lists those that there are; correct "
            "the profile's queue",
        )
    if cluster.priority_class:
        _exists(
            kube,
            report,
            f"/apis/scheduling.k8s.io/v1/priorityclasses/{cluster.priority_class}",
            f"priority class {cluster.priority_class}",
            "kubectl get priorityclasses lists those that there are; correct priority_class",
        )


def check_namespace(kube: Kube, cluster: Cluster, report: Report) -> bool:
    """False if it is known not to exist: all that would be in it is missing then."""
    name = cluster.namespace
    try:
        found = kube.get(f"/api/v1/namespaces/{name}")
    except RefusedError as error:
        report.unknown.append(f"namespace {name}: {error}")
        return True
    if found is None:
        report.problem(
            f"there is no namespace {name}; what must be in it was not looked for",
            "docs/cluster.md makes it (where Kubeflow is multi-user, by a Profile of that name), "
            "or correct the profile's namespace, or --namespace",
        )
        return False
    if found.get("status", {}).get("phase") == "Terminating":
        report.problem(f"namespace {name} is being deleted", "wait, and make it again")
    return True


def check_accounts(kube: Kube, cluster: Cluster, report: Report) -> None:
    names = (cluster.service_account, cluster.pipelines.service_account)
    for name in dict.fromkeys(filter(None, names)):
        _exists(
            kube,
            report,
            f"/api/v1/namespaces/{cluster.namespace}/serviceaccounts/{name}",
            f"service account {name}",
            "kubectl apply -k k8s/base makes it, or correct the profile",
        )


def check_volumes(kube: Kube, cluster: Cluster, report: Report) -> None:
    """Claims are bound, and to something that several nodes can mount if there are several."""
    for volume in cluster.volumes:
        what = f"volume claim {volume.claim}"
        found = _exists(
            kube,
            report,
            f"/api/v1/namespaces/{cluster.namespace}/persistentvolumeclaims/{volume.claim}",
            what,
            f"kubectl -n {cluster.namespace} get pvc lists those that there are; make it, or "
            "correct the profile's volumes",
        )
        if found is None:
            continue
        phase = found.get("status", {}).get("phase")
        if phase == "Lost":
            report.problem(f"{what} has lost its volume", "restore the volume, or make a new claim")
        elif phase != "Bound":
            report.unknown.append(
                f"{what} is {phase}: fine if its storage class waits for the first pod"
            )
        modes = set(found.get("status", {}).get("accessModes") or found["spec"]["accessModes"])
        shared = SHARED_MODES | ({"ReadOnlyMany"} if volume.read_only else set())
        if cluster.nodes > 1 and not modes & shared:
            report.problem(
                f"{what} is {', '.join(sorted(modes))}: {cluster.nodes} nodes cannot mount it at "
                "once",
                f"use a claim with {' or '.join(sorted(shared))}, s3://, or nodes: 1",
            )


def check_secrets(kube: Kube, cluster: Cluster, report: Report) -> None:
    """The Secrets that variables come from, with their keys, and those that images are pulled
    with."""
    wanted: dict[str, set[str]] = {}
    for secret in cluster.secrets.values():
        wanted.setdefault(secret.name, set()).add(secret.key)
    for name in cluster.image_pull_secrets:
        wanted.setdefault(name, set()).add(".dockerconfigjson")
    for name, keys in wanted.items():
        found = _exists(
            kube,
            report,
            f"/api/v1/namespaces/{cluster.namespace}/secrets/{name}",
            f"secret {name}",
            f"kubectl -n {cluster.namespace} create secret ...; k8s/secrets has templates",
        )
        if found is not None and (absent := keys - set(found.get("data") or {})):
            report.problem(
                f"secret {name} has no key {', '.join(sorted(absent))}",
                f"it has: {', '.join(sorted(found.get('data') or {})) or 'none'}; correct either",
            )


def pull_credentials(kube: Kube, cluster: Cluster) -> dict[str, str]:
    """`host -> base64(user:password)` of the pull secrets that we may read."""
    found: dict[str, str] = {}
    for name in cluster.image_pull_secrets:
        try:
            secret = kube.get(f"/api/v1/namespaces/{cluster.namespace}/secrets/{name}")
            text = base64.b64decode((secret or {}).get("data", {})[".dockerconfigjson"])
            for host, entry in json.loads(text)["auths"].items():
                pair = f"{entry.get('username')}:{entry.get('password')}".encode()
                found[host] = entry.get("auth") or base64.b64encode(pair).decode()
        except (RefusedError, KeyError, ValueError):
            continue
    return found


def _exists(kube: Kube, report: Report, path: str, what: str, remedy: str) -> Any:
    try:
        found = kube.get(path)
    except RefusedError as error:
        report.unknown.append(f"{what}: {error}")
        return None
    if found is None:
        report.problem(f"there is no {what}", remedy)
    else:
        report.fine.append(f"{what} is there")
    return found
