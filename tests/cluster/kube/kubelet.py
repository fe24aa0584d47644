"""The kubelets of all nodes: they run the containers of the pods that are bound to them."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster.kube.container import Container, Log
from tests.cluster.kube.controller import Controller
from tests.cluster.kube.store import Key, Object, StatusError

if TYPE_CHECKING:
    from tests.cluster.kube.cluster import KubeCluster

CLOSING_S = 10.0


class Kubelet(Controller):
    def __init__(self, cluster: KubeCluster, folder: Path) -> None:
        self._folder = folder
        self._containers: dict[str, Container] = {}  # by the pod's uid
        self._lost: dict[str, float] = {}  # nodes without power, and since when
        self._hosts = folder / "hosts"
        self._hosts.write_text("127.0.0.1 localhost\n")
        self._etc = folder / "etc"
        shutil.copytree("/etc", self._etc, symlinks=True, ignore=_unreadable)
        (self._etc / "hosts").unlink(missing_ok=True)
        (self._etc / "hosts").touch()
        (self._etc / "sdpose").mkdir()
        super().__init__(cluster)

    def run(self) -> None:
        try:
            super().run()
        finally:
            for container in self._containers.values():
                container.destroy()
            for container in self._containers.values():
                container.join(CLOSING_S)

    def reconcile(self) -> None:
        self._store.collect_garbage()
        pods = self._store.list("", "pods")
        names = "".join(f"127.0.0.1 {' '.join(_names(pod))}\n" for _, pod in pods)
        self._hosts.write_text(f"127.0.0.1 localhost\n{names}")
        for key, pod in pods:
            node = pod["spec"].get("nodeName")
            if node is None or node in self._lost:
                continue
            container = self._containers.get(pod["metadata"]["uid"])
            if pod["metadata"].get("deletionTimestamp"):
                if container is None or container.end():
                    if pod.get("status", {}).get("phase") == "Pending":
                        self._cluster.set_status(key, {"phase": "Failed"})  # it never began
                    self._store.remove(key)
            elif container is None and pod.get("status", {}).get("phase") == "Pending":
                self._admit(key, pod)

    def _admit(self, key: Key, pod: Object) -> None:
        """Starts a pod, or says what it waits for."""
        cluster = self._cluster
        spec = pod["spec"]
        for container in spec.get("initContainers", []):
            if container["image"] not in cluster.images:
                cluster.set_status(
                    key,
                    {
                        "phase": "Pending",
                        "initContainerStatuses": [_waiting(container, "ImagePullBackOff")],
                        "containerStatuses": [_waiting(spec["containers"][0], "PodInitializing")],
                    },
                )
                return
        main = spec["containers"][0]
        sources = [entry.get("valueFrom", {}) for entry in main.get("env", [])]
        wanted = [source["secretKeyRef"]["name"] for source in sources if "secretKeyRef" in source]
        missing = [name for name in wanted if name not in cluster.secrets]
        if main["image"] not in cluster.images or missing:
            reason = "CreateContainerConfigError" if missing else "ImagePullBackOff"
            message = f'secret "{missing[0]}" not found' if missing else ""
            status = _waiting(main, reason, message)
            cluster.set_status(key, {"phase": "Pending", "containerStatuses": [status]})
            return
        started = Container(
            cluster, self._folder, self._etc, self._hosts, key, pod, cluster.set_status
        )
        self._containers[pod["metadata"]["uid"]] = started
        if started.node in self._lost:
            started.vanish()

    def log(self, namespace: str, name: str, query: dict[str, str]) -> Log:
        pod = self._store.get(("", "pods", namespace, name))
        if (node := pod["spec"].get("nodeName")) in self._lost:
            path = f"https://{node}:10250/containerLogs/{namespace}/{name}"
            message = f'Get "{path}": dial tcp: connect: no route to host'
            raise StatusError(500, "InternalError", message)
        container = self._containers.get(pod["metadata"]["uid"])
        wanted = query.get("container")
        if container is None or wanted != pod["spec"]["containers"][0]["name"]:
            message = f'container "{wanted}" in pod "{name}" is waiting to start'
            raise StatusError(400, "BadRequest", message)
        with self._store.changed:  # which life it is, is as the pod's status says
            log = container.previous_log if query.get("previous") == "true" else container.log
        if log is None:
            message = f'previous terminated container "{wanted}" in pod "{name}" not found'
            raise StatusError(400, "BadRequest", message)
        return log

    def has_spoken(self, pod_name: str) -> bool:
        """Whether the program of a running pod has begun: it has said something."""
        return any(container.log.after(0, 0)[0] for container in self._running(pod_name))

    def write_to_log(self, pod_name: str, text: str) -> None:
        """A line of the kubelet's own, without a stamp, in the log of a running pod."""
        for container in self._running(pod_name):
            container.log.add_unstamped(text)

    def terminate(self, pod_name: str) -> None:
        """SIGTERM for the container, as when its node shuts down."""
        for container in self._running(pod_name):
            container.signal(signal.SIGTERM)

    def kill(self, pod_name: str) -> None:
        """SIGKILL for all of the container's processes, as the OOM killer does."""
        for container in self._running(pod_name):
            container.kill()

    def evict(self, pod_name: str, message: str) -> None:
        """What the kubelet does when its node runs out of something."""
        for container in self._running(pod_name):
            container.evict(message)

    def lose(self, node: str) -> None:
        """Cuts a node's power: its containers are gone, and nobody there says so."""
        self._lost[node] = time.monotonic()
        for container in list(self._containers.values()):
            if container.node == node:
                container.vanish()

    def bring_back(self, node: str) -> None:
        """Starts a lost node: it knows of no container that it ran before."""
        for container in list(self._containers.values()):
            if container.node == node:
                container.report_vanished()
        del self._lost[node]

    def silent_seconds(self, node: str) -> float:
        """For how long a node's kubelet has not reported."""
        since = self._lost.get(node)
        return 0 if since is None else time.monotonic() - since

    def _running(self, pod_name: str) -> list[Container]:
        containers = list(self._containers.values())
        return [each for each in containers if each.pod_name == pod_name and each.running]


def _names(pod: Object) -> list[str]:
    """Under which a pod is found by the others."""
    spec = pod["spec"]
    names = [pod["metadata"]["name"]]
    if "hostname" in spec and "subdomain" in spec:
        names.append(f"{spec['hostname']}.{spec['subdomain']}")
    return names


def _waiting(container: Object, reason: str, message: str = "") -> Object:
    image = container["image"]
    if reason == "ImagePullBackOff":
        message = f'Back-off pulling image "{image}"'
    return {
        "name": container["name"],
        "image": image,
        "restartCount": 0,
        "ready": False,
        "state": {"waiting": {"reason": reason, "message": message}},
    }


def _unreadable(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if not os.access(os.path.join(folder, name), os.R_OK)}
