"""The nodes as the control plane sees them: its scheduler, its node lifecycle and taint eviction
controllers, and its garbage collector of pods.

A node that is lost is noticed late. Then its pods are asked to end, which nobody there hears: they
stay until the node is back, its object is deleted, or somebody declares it out of service.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from datetime import datetime

from tests.cluster.kube.controller import Controller
from tests.cluster.kube.store import Key, Object, now

GRACE_S = 0.5  # node-monitor-grace-period; really 50 s, or 40 s before Kubernetes 1.32
UNREACHABLE = "node.kubernetes.io/unreachable"
NOT_READY = "node.kubernetes.io/not-ready"
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
ENDED = {"Succeeded", "Failed"}


def node_key(name: str) -> Key:
    return ("", "nodes", "", name)


def taint(node: Object, key: str) -> None:
    """As `kubectl taint node NAME KEY:NoExecute`."""
    taints = node["spec"].setdefault("taints", [])
    taints.append({"key": key, "effect": "NoExecute", "timeAdded": now()})


def tolerate_for_a_while(pod_spec: Object) -> None:
    """The admission plugin DefaultTolerationSeconds."""
    tolerations = pod_spec.setdefault("tolerations", [])
    for key in (NOT_READY, UNREACHABLE):
        if _tolerated_seconds(pod_spec, {"key": key, "effect": "NoExecute"}) == 0:
            default = {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
            tolerations.append({"key": key} | default)


class Nodes(Controller):
    def reconcile(self) -> None:
        for key, node in self._store.list("", "nodes"):
            self._monitor(key, node)
        nodes = {key[3]: node for key, node in self._store.list("", "nodes")}
        pods = self._store.list("", "pods")
        bound = Counter(pod["spec"].get("nodeName") for _, pod in pods)
        for key, pod in pods:
            place = pod["spec"].get("nodeName")
            if place is None:
                if not pod["metadata"].get("deletionTimestamp"):  # a finalizer may hold it
                    self._schedule(key, pod, nodes, bound)
            elif place not in nodes:
                self._force(key, "PodGC: node no longer exists")
            else:
                self._evict(key, pod, nodes[place])

    def _schedule(self, key: Key, pod: Object, nodes: Object, bound: Counter[str]) -> None:
        """Binds a pod to the node that has the fewest, or says why there is none."""
        fit = [name for name, node in nodes.items() if not node["spec"].get("taints")]
        message = self._cluster.unschedulable(pod)
        if not message and not fit:
            message = f"0/{len(nodes)} nodes are available: {len(nodes)} had untolerated taint(s)."
        if message:
            condition = {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": message,
            }
            self._cluster.set_status(key, {"phase": "Pending", "conditions": [condition]})
            return
        place = min(fit, key=lambda name: (bound[name], name))
        bound[place] += 1

        def bind(item: Object) -> None:
            item["spec"]["nodeName"] = place

        scheduled = {"type": "PodScheduled", "status": "True"}
        with self._store.changed:
            self._cluster.set_status(key, {"conditions": [scheduled]})
            self._store.update(key, bind)

    def _monitor(self, key: Key, node: Object) -> None:
        """Notices that a node's kubelet no longer reports, or does again."""
        taints = node["spec"].get("taints", [])
        noticed = any(each["key"] == UNREACHABLE for each in taints)
        silent_s = self._cluster.kubelet.silent_seconds(key[3])
        if silent_s > GRACE_S and not noticed:
            self._store.update(key, lambda item: taint(item, UNREACHABLE))
            self._set_ready(key, "Unknown", "NodeStatusUnknown")
            for pod_key, pod in self._store.list("", "pods"):
                if pod["spec"].get("nodeName") == key[3]:
                    ready = {"type": "Ready", "status": "False", "lastTransitionTime": now()}
                    self._cluster.set_status(pod_key, {"conditions": [ready]})
                    self._cluster.event(pod, "NodeNotReady", "Node is not ready")
        elif silent_s == 0 and noticed:
            kept = [each for each in taints if each["key"] != UNREACHABLE]
            self._store.update(key, lambda item: item["spec"].update(taints=kept))
            self._set_ready(key, "True", "KubeletReady")

    def _set_ready(self, key: Key, status: str, reason: str) -> None:
        ready = {"type": "Ready", "status": status, "reason": reason, "lastTransitionTime": now()}
        self._cluster.set_status(key, {"conditions": [ready]})

    def _evict(self, key: Key, pod: Object, node: Object) -> None:
        """Asks a pod to end when it no longer tolerates its node; it is gone at once from a node
        that is out of service."""
        taints = node["spec"].get("taints", [])
        if not pod["metadata"].get("deletionTimestamp"):
            if pod["status"].get("phase") not in ENDED and any(
                time.time() - _seconds(each["timeAdded"]) >= _tolerated_seconds(pod["spec"], each)
                for each in taints
            ):
                message = "Taint manager: deleting due to NoExecute taint"
                self._disrupt(key, "DeletionByTaintManager", message)
                self._store.discard(key)
        elif {UNREACHABLE, OUT_OF_SERVICE} <= {each["key"] for each in taints}:
            self._force(key)

    def _force(self, key: Key, message: str = "") -> None:
        """PodGC: deletes a pod without its kubelet."""
        if message:
            self._disrupt(key, "DeletionByPodGC", message)

        def fail(item: Object) -> None:
            if item["status"].get("phase") not in ENDED:
                item["status"]["phase"] = "Failed"

        self._store.update(key, fail)
        self._store.remove(key)

    def _disrupt(self, key: Key, reason: str, message: str) -> None:
        target = {"type": "DisruptionTarget", "status": "True", "reason": reason}
        self._cluster.set_status(key, {"conditions": [target | {"message": message}]})


def _tolerated_seconds(pod_spec: Object, taint: Object) -> float:
    """How long a pod stays on a node with this taint."""
    seconds = [
        each.get("tolerationSeconds", math.inf)
        for each in pod_spec.get("tolerations", [])
        if each.get("effect") in (None, taint["effect"])
        and each.get("key") in (None, taint["key"])
        and (each.get("operator") == "Exists" or each.get("value") == taint.get("value"))
    ]
    return min(seconds, default=0)


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()
