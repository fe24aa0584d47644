"""All parts of the miniature cluster, and what a test does to them."""

from __future__ import annotations

import contextlib
import copy
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.kube.admission import Admission
from tests.cluster.kube.crds import CLUSTER_RUNTIME, TRAINERS, Crds
from tests.cluster.kube.kubelet import Kubelet
from tests.cluster.kube.kueue import Kueue
from tests.cluster.kube.nodes import Nodes, node_key, taint, tolerate_for_a_while
from tests.cluster.kube.operator import Operator
from tests.cluster.kube.server import Call, Fault, Server
from tests.cluster.kube.store import Key, Object, StatusError, Store, now
from tests.cluster.kube.trainer import Trainer

NAMESPACE = "pose"
GROUPS = {"pytorchjobs": "kubeflow.org", "trainjobs": "trainer.kubeflow.org"}
# What Trainer brings along (manifests/base/runtimes/torch_distributed.yaml).
STOCK_RUNTIME: Object = {
    "apiVersion": "trainer.kubeflow.org/v1alpha1",
    "kind": "ClusterTrainingRuntime",
    "metadata": {
        "name": "torch-distributed",
        "labels": {"trainer.kubeflow.org/framework": "torch"},
    },
    "spec": {
        "mlPolicy": {"numNodes": 1, "torch": {}},
        "template": {
            "spec": {
                "replicatedJobs": [
                    {
                        "name": "node",
                        "template": {
                            "metadata": {
                                "labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
                            },
                            "spec": {
                                "template": {
                                    "spec": {"containers": [{"name": "node", "image": "torch:1"}]}
                                }
                            },
                        },
                    }
                ]
            }
        },
    },
}
NSLOOKUP = b'#!/bin/sh\nexec getent hosts "$1"\n'


class KubeCluster:
    def __init__(self, folder: Path, crds: Path, trainer_version: str = TRAINERS[-1]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.closed = ""  # why
        self.store = Store()
        self._crds_folder = crds
        self.upgrade_trainer(trainer_version)
        self.tokens = {"token-1"}
        self.unknown: set[str] = set()  # kinds that are not installed
        self.images: dict[str, dict[str, bytes]] = {"alpine:3.10": {"nslookup": NSLOOKUP}}
        self.secrets: dict[str, dict[str, str]] = {}
        self.claims: dict[str, Path] = {}
        self.container_env: dict[str, str] = {}
        self.host_paths = [Path(p).resolve() for p in (sys.prefix, sys.base_prefix, os.getcwd())]
        self.kueue: Kueue | None = None  # not installed
        self.reasons: dict[int, str] = {}  # of exit codes
        self.unschedulable: Callable[[Object], str | None] = lambda _pod: None
        self.quota: Callable[[str], str | None] = lambda _name: None
        self.calls: list[Call] = []
        self._faults: list[Fault] = []
        self.streams_cut = 0
        self.master_port = _free_port()
        self.server = Server(self)
        self.add_node("node-1")
        self.kubelet = Kubelet(self, folder)
        self.nodes = Nodes(self)
        self.operator = Operator(self)
        self.trainer = Trainer(self)
        self.install(STOCK_RUNTIME)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> KubeCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close("the test is over")
        for part in (self.nodes, self.kubelet, self.operator, self.trainer, self.kueue):
            if part is not None:
                part.join(15)
        self.server.shutdown()
        self.server.server_close()

    def kubeconfig(self, token: str = "token-1") -> Path:
        path = self.folder / "kubeconfig"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": self.url}}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def close(self, reason: str) -> None:
        """Ends watches and controllers; every call is refused from now on."""
        self.closed = self.closed or reason
        with self.store.changed:
            self.store.changed.notify_all()

    def wait_for_close(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        with self.store.changed:
            while not self.closed and time.monotonic() < end:
                self.store.changed.wait(end - time.monotonic())

    # ----------------------------------------------------------------------------------- for tests

    def install_kueue(self, *frameworks: str) -> Kueue:
        """frameworks: plurals of the kinds that it manages."""
        self.kueue = Kueue(self, frameworks)
        return self.kueue

    def fault(self, *faults: Fault) -> None:
        self._faults += faults

    def cut_streams(self) -> None:
        """Ends all watches and logs that are open, as a server does that is killed."""
        self.streams_cut += 1
        with self.store.changed:
            self.store.changed.notify_all()

    def meet(self, call: Call) -> Fault | None:
        """Takes note of a call; the fault that it meets."""
        self.calls.append(call)
        for fault in self._faults:
            if fault.met < fault.times and fault.when(call):
                fault.met += 1
                return fault
        return None

    def jobs(self, plural: str = "pytorchjobs") -> list[Object]:
        return [job for _, job in self.store.list(GROUPS[plural], plural)]

    def delete(self, plural: str, name: str) -> None:
        """As somebody else would."""
        self.store.delete((GROUPS[plural], plural, NAMESPACE, name))

    def pods(self) -> dict[str, Object]:
        return {pod["metadata"]["name"]: pod for _, pod in self.store.list("", "pods")}

    def install(self, runtime: Object) -> None:
        """A runtime for TrainJobs, as `kubectl apply` does; another of the same name goes."""
        plural = f"{runtime['kind'].lower()}s"
        self.admission.check(plural, runtime, strict=True)
        meta = runtime["metadata"]
        self.store.discard((GROUPS["trainjobs"], plural, meta.get("namespace", ""), meta["name"]))
        self.store.create(GROUPS["trainjobs"], plural, runtime)

    def upgrade_trainer(self, version: str) -> None:
        """Its CRDs, webhooks and controller are of this version from now on."""
        self.trainer_version = version
        self.crds = Crds(self._crds_folder, version)
        self.admission = Admission(self.crds, self.runtime_of)

    def stop_operator(self, plural: str = "pytorchjobs") -> None:
        """As when nothing runs that would take notice of such jobs."""
        controller = self.operator if plural == "pytorchjobs" else self.trainer
        controller.stopped.set()
        controller.join()

    def restart_operator(self, plural: str = "pytorchjobs") -> None:
        self.stop_operator(plural)
        if plural == "pytorchjobs":
            self.operator = Operator(self)
        else:
            self.trainer = Trainer(self)

    def add_node(self, name: str) -> None:
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {}}
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
        self.store.create("", "nodes", node | {"status": {"conditions": [ready]}})

    def delete_node(self, name: str) -> None:
        """As `kubectl delete node`, or a cloud's controller for a machine that is gone."""
        self.store.delete(node_key(name))

    def taint_node(self, name: str, key: str) -> None:
        self.store.update(node_key(name), lambda node: taint(node, key))

    # ------------------------------------------------------------------------------- for its parts

    def runtime_of(self, trainjob: Object) -> Object | None:
        """What a TrainJob's runtimeRef refers to."""
        reference = trainjob["spec"]["runtimeRef"]
        if reference.get("kind", "ClusterTrainingRuntime") == "ClusterTrainingRuntime":
            key = (GROUPS["trainjobs"], CLUSTER_RUNTIME, "", reference["name"])
        else:
            namespace = trainjob["metadata"]["namespace"]
            key = (GROUPS["trainjobs"], "trainingruntimes", namespace, reference["name"])
        try:
            return self.store.get(key)
        except StatusError:
            return None

    def create_pod(
        self, name: str, template: Object, job: Object, owner: Object, *, reason: str
    ) -> None:
        """Creates a pod as a controller does; a refusal becomes an event of the job."""
        namespace = job["metadata"]["namespace"]
        if message := self.quota(name):
            self.event(job, reason, f'Error creating: pods "{name}" is forbidden: {message}')
            return
        meta = {
            **template.get("metadata", {}),
            "name": name,
            "namespace": namespace,
            "ownerReferences": [owner],
        }
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": meta,
            "spec": copy.deepcopy(template["spec"]),
            "status": {"phase": "Pending"},
        }
        tolerate_for_a_while(pod["spec"])
        with contextlib.suppress(StatusError):  # it is there already
            self.store.create("", "pods", pod)

    def set_status(self, key: Key, status: Object) -> None:
        """Changes these fields of an object's status, and its conditions of these types."""

        def change(item: Object) -> None:
            old = item.get("status", {})
            merged = {
                c["type"]: c for c in [*old.get("conditions", []), *status.get("conditions", [])]
            }
            item["status"] = old | status | {"conditions": list(merged.values())}

        self.store.update(key, change)

    def event(self, about: Object, reason: str, message: str, kind: str = "Warning") -> None:
        """Events of one kind about one object are counted, not repeated."""
        meta = about["metadata"]
        key = ("", "events", meta["namespace"], f"{meta['name']}.{reason}".lower())

        if any(each == key for each, _ in self.store.list("", "events")):
            return
        item = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"namespace": key[2], "name": key[3]},
            "involvedObject": {
                "kind": about.get("kind"),
                "name": meta["name"],
                "uid": meta["uid"],
            },
            "type": kind,
            "reason": reason,
            "message": message,
            "count": 1,
            "lastTimestamp": now(),
        }
        self.store.create("", "events", item)

    def value(self, entry: dict[str, Any], pod: Object) -> str:
        """Of a container's environment entry."""
        if "value" in entry:
            return str(entry["value"])
        source = entry["valueFrom"]
        if "fieldRef" in source:
            name = source["fieldRef"]["fieldPath"].split("'")[1]  # metadata.annotations['name']
            return str(pod["metadata"]["annotations"][name])
        reference = source["secretKeyRef"]
        return self.secrets[reference["name"]][reference["key"]]

    def reason(self, code: int) -> str:
        """Of a container that ended."""
        return self.reasons.get(code, "Error" if code else "Completed")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
