"""Checks that there is room: nodes that the training's pods fit on, and what quotas leave."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any

from kubernetes.utils import parse_quantity

from components.launcher.pod import resources
from components.profile import Cluster
from pipelines.cluster.preflight.kube import Kube, RefusedError
from pipelines.cluster.preflight.quantities import compared, counted, readable
from sdpose.checks.report import Report

Object = dict[str, Any]


def check_nodes(kube: Kube, cluster: Cluster, report: Report) -> None:
    """Nodes big enough, whatever runs on them now; waiting for a busy one is no problem."""
    try:
        found = kube.get("/api/v1/nodes")
    except RefusedError as error:
        report.unknown.append(f"nodes: {error}")
        return
    nodes = (found or {}).get("items", [])
    unfit = Counter(filter(None, (_why_not(node, cluster) for node in nodes)))
    places = sum(_places(node, cluster) for node in nodes if not _why_not(node, cluster))
    reasons = "; ".join(f"{count}: {reason}" for reason, count in unfit.most_common(6))
    has = "has" if len(nodes) == 1 else "have"
    what = f"{counted(len(nodes), 'node')} {has} places for {counted(places, 'pod')}"
    what += f" with {_wanted(cluster)}"
    if places >= (cluster.elastic.min_replicas if cluster.elastic else cluster.nodes):
        report.fine.append(what)
    else:
        report.problem(
            f"{what}; {cluster.nodes} {'is' if cluster.nodes == 1 else 'are'} wanted"
            + (f" (nodes without: {reasons})" * bool(reasons)),
            "correct node_selector, tolerations, resources or nodes in the profile; or the cluster "
            "must grow",
        )


def check_quotas(kube: Kube, cluster: Cluster, report: Report) -> None:
    """What the namespace's quotas leave is enough for all of the training's pods."""
    try:
        found = kube.get(f"/api/v1/namespaces/{cluster.namespace}/resourcequotas")
    except RefusedError as error:
        report.unknown.append(f"quotas: {error}")
        return
    if found is None:
        report.unknown.append("quotas: this API server knows none")
        return
    needed, before = _needed(cluster), len(report.problems)
    for quota in found.get("items", []):
        name, status = quota["metadata"]["name"], quota.get("status", {})
        for key, hard in status.get("hard", {}).items():
            used = parse_quantity(status.get("used", {}).get(key, "0"))
            left = parse_quantity(hard) - used
            want = needed.get(key)
            if want is None and key in {"limits.cpu", "limits.memory", "requests.cpu"}:
                report.unknown.append(
                    f"quota {name} counts {key}, which the profile does not state: a LimitRange "
                    "must, or pods are refused"
                )
            elif want is not None and want > left:
                leaves, needs = compared(key, left, want)
                report.problem(
                    f"quota {name} leaves {leaves} of {key} ({hard}, used {readable(key, used)}); "
                    f"the training needs {needs}",
                    "wait for other runs, ask for more, or lower nodes, gpus_per_node, resources",
                )
    if len(report.problems) == before:
        report.fine.append("quotas leave room for the training")


def _needed(cluster: Cluster) -> dict[str, Decimal]:
    """Under the names that quotas have; a limit is the request where there is none."""
    limits = resources(cluster).get("limits", {})
    needed = {"pods": Decimal(cluster.nodes), "count/pods": Decimal(cluster.nodes)}
    for name, value in _of_one_pod(cluster).items():
        needed[f"requests.{name}"] = parse_quantity(value) * cluster.nodes
        if name in {"cpu", "memory"}:
            needed[name] = needed[f"requests.{name}"]
    for name, value in limits.items():
        needed[f"limits.{name}"] = parse_quantity(value) * cluster.nodes
    return needed


def _of_one_pod(cluster: Cluster) -> dict[str, str]:
    """What the scheduler counts: requests; a limit is the request where there is none."""
    stated = resources(cluster)
    counted = {**stated.get("limits", {}), **stated.get("requests", {})}
    return {name: value for name, value in counted.items() if parse_quantity(value)}


def _wanted(cluster: Cluster) -> str:
    each = (
        f"{name}={readable(name, parse_quantity(value))}"
        for name, value in _of_one_pod(cluster).items()
    )
    return ", ".join(each) or "no stated resources"


def _places(node: Object, cluster: Cluster) -> int:
    """How many of the training's pods an empty node would hold."""
    allocatable = node.get("status", {}).get("allocatable", {})
    counts = [
        int(parse_quantity(allocatable.get(name, "0")) // parse_quantity(value))
        for name, value in _of_one_pod(cluster).items()
        if parse_quantity(value)
    ]
    return min([cluster.nodes, *counts])


def _why_not(node: Object, cluster: Cluster) -> str:
    """Why a training pod cannot be placed on the node, "" if it can."""
    labels = node["metadata"].get("labels", {})
    for key, value in cluster.node_selector.items():
        if labels.get(key) != value:
            return f"no label {key}={value}"
    spec, status = node.get("spec", {}), node.get("status", {})
    if spec.get("unschedulable"):
        return "cordoned"
    ready = {c["type"]: c["status"] for c in status.get("conditions", [])}
    if ready.get("Ready", "True") != "True":
        return "not ready"
    for taint in spec.get("taints", []):
        if taint["effect"] != "PreferNoSchedule" and not _tolerated(taint, cluster):
            value = f"={taint['value']}" if taint.get("value") else ""
            return f"taint {taint['key']}{value}:{taint['effect']} is not tolerated"
    for name, value in _of_one_pod(cluster).items():
        there = parse_quantity(status.get("allocatable", {}).get(name, "0"))
        if parse_quantity(value) > there:
            has, wanted = compared(name, there, parse_quantity(value))
            return f"{name} {has}, wanted {wanted}"
    return ""


def _tolerated(taint: Object, cluster: Cluster) -> bool:
    return any(
        (each.key is None or each.key == taint["key"])
        and (each.operator == "Exists" or (each.value or "") == taint.get("value", ""))
        and each.effect in {None, taint["effect"]}
        for each in cluster.tolerations
    )
