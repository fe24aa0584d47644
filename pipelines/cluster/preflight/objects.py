"""Checks what must be in the namespace: rights, accounts, volumes, secrets, queues, kinds."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterable
from typing import Any

from components.kube.api import LOCAL_QUEUES, Object
from components.launcher import runtime
from components.launcher.kinds import Kind, kinds_of, no_kind_message
from components.profile import Cluster
from pipelines.cluster.preflight.kube import Kube, RefusedError
from sdpose.checks.report import Report
from sdpose.documents import parse_json

# What the launcher asks of Kubernetes (components/launcher); k8s/base/rbac.yaml grants it.
Right = tuple[str, str, str]  # API group, resource (with its subresource), verb
SHARED_MODES = {"ReadWriteMany"}


def rights(cluster: Cluster, kinds: Iterable[Kind] | None = None) -> list[Right]:
    """kinds: of job, those that the cluster has; default: all that the profile allows."""
    wanted: list[Right] = []
    for kind in kinds_of(cluster) if kinds is None else kinds:
        job = kind.resource
        verbs = ("get", "list", "watch", "create", "patch", "delete")
        wanted += [(job.group, job.plural, verb) for verb in verbs]
        if kind.train_api == "trainjob" and cluster.runtime_kind == "TrainingRuntime":
            wanted.append((job.group, "trainingruntimes", "get"))
    wanted += [("", "pods", verb) for verb in ("get", "list", "watch")]
    wanted += [("", "pods/log", "get"), ("", "events", "list")]
    if cluster.queue:
        wanted.append(("kueue.x-k8s.io", "workloads", "list"))
    return wanted


def check_rights(kube: Kube, cluster: Cluster, report: Report, *, in_cluster: bool) -> None:
    """Checks that the steps' service account may do what the launcher does."""
    account = cluster.pipelines.service_account
    if not in_cluster and account is None:
        report.unknown.append(
            "rights of the launcher: the profile names no pipelines.service_account; the run's "
            "first step looks again"
        )
        return
    who = f"service account {account}" if account else "the steps' service account"
    # Of a kind that the cluster does not have nothing will be asked.
    try:
        kinds = _served(kube, cluster) or None
    except RefusedError:  # check_kinds reports it
        kinds = None
    wanted = rights(cluster, kinds)
    try:
        missing = [
            f"{verb} {resource}" + (f" ({group})" if group else "")
            for group, resource, verb in wanted
            if not _is_allowed(kube, cluster, (group, resource, verb), in_cluster=in_cluster)
        ]
    except RefusedError as error:
        report.unknown.append(f"rights of {who}: {error}; the run's first step looks again")
        return
    if missing:
        report.problem(
            f"{who} may not: {', '.join(missing)}; in namespace {cluster.namespace}",
            "kubectl apply -k k8s/base binds the Role sdpose-launcher to sdpose-pipeline; name "
            "that in pipelines.service_account, or bind the Role to yours",
        )
    else:
        report.fine.append(f"{who} has all {len(wanted)} rights of the launcher")


def _is_allowed(kube: Kube, cluster: Cluster, right: Right, *, in_cluster: bool) -> bool:
    """In the steps' own pod by asking for oneself, elsewhere on behalf of their account."""
    namespace, (group, resource, verb) = cluster.namespace, right
    name, _, subresource = resource.partition("/")
    attributes = {
        "namespace": namespace,
        "group": group,
        "resource": name,
        "subresource": subresource,
        "verb": verb,
    }
    review: Object = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    path = "selfsubjectaccessreviews"
    if not in_cluster:
        accounts = "system:serviceaccounts"
        review["kind"] = "LocalSubjectAccessReview"
        review["metadata"] = {"namespace": namespace}
        review["spec"] |= {
            "user": f"system:serviceaccount:{namespace}:{cluster.pipelines.service_account}",
            "groups": [accounts, f"{accounts}:{namespace}", "system:authenticated"],
        }
        path = f"namespaces/{namespace}/localsubjectaccessreviews"
    answer = kube.create(f"/apis/authorization.k8s.io/v1/{path}", review)
    return bool(answer.get("status", {}).get("allowed"))


def check_kinds(kube: Kube, cluster: Cluster, report: Report) -> None:
    """The kind of job, its runtime, Kueue's queue, the priority class."""
    served: list[Kind] = []
    try:
        served = _served(kube, cluster)
    except RefusedError as error:
        report.unknown.append(f"which kinds of job the cluster has: {error}")
    else:
        if not served:
            _report_no_kind(cluster, report)
    kind = (served or kinds_of(cluster))[0]
    if served:
        resource = kind.resource
        chosen = f" (train_api auto takes {kind.name})" if cluster.train_api == "auto" else ""
        name = f"{resource.plural}.{resource.group}/{resource.version}"
        report.fine.append(f"{name} are known{chosen}")
    if kind.train_api == "trainjob":
        _check_runtime(kube, cluster, report)
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


def _report_no_kind(cluster: Cluster, report: Report) -> None:
    others = "" if cluster.train_api == "auto" else ", or choose the other --train-api"
    what, _, remedy = no_kind_message(cluster).partition(": ")
    report.problem(what, remedy + others)


def _served(kube: Kube, cluster: Cluster) -> list[Kind]:
    """The kinds of job that the cluster has of those that the profile allows."""
    found = []
    for kind in kinds_of(cluster):
        group, version = kind.resource.group, kind.resource.version
        known = kube.get(f"/apis/{group}/{version}") or {}
        if any(each["name"] == kind.resource.plural for each in known.get("resources", [])):
            found.append(kind)
    return found


def _check_runtime(kube: Kube, cluster: Cluster, report: Report) -> None:
    """It is there, and says what a TrainJob cannot say itself as the profile does."""
    what = f"{cluster.runtime_kind} {cluster.runtime}"
    try:
        found = kube.get(runtime.runtime_path(cluster))
    except RefusedError as error:
        report.unknown.append(f"{what}: {error}")
        return
    if found is None:
        missing = runtime.missing_runtime(cluster)
        report.problem(missing.text, missing.remedy)
        return
    differences = runtime.differences(found, cluster)
    for each in differences:
        if each.breaks:
            report.problem(each.text, each.remedy)
    notes = [each.text for each in differences if not each.breaks]
    report.fine.append(
        f"{what} is there" + (f"; other than the profile says: {'; '.join(notes)}" if notes else "")
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
    for secret in itertools.chain.from_iterable(cluster.all_secrets.values()):
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
            for host, entry in parse_json(text, name)["auths"].items():
                pair = f"{entry.get('username')}:{entry.get('password')}".encode()
                found[host] = entry.get("auth") or base64.b64encode(pair).decode()
        except (RefusedError, LookupError, TypeError, AttributeError, ValueError):
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
