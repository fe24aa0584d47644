"""Runs pods as processes, each with its own mounts and process numbers.

A container sees this machine's files, read-only, its volumes where they are mounted, and the
cluster's names in /etc/hosts. Its image is a folder of programs that come first in its PATH. Needs
root, for the mounts.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from tests.cluster.kube.store import Key, Object, StatusError, now

if TYPE_CHECKING:
    from tests.cluster.kube.cluster import KubeCluster

# Mounts, then the program. $1: the root to be; stdin: one "source<TAB>target" a line.
ENTER = r"""
set -e
root=$1; shift
mount --bind "$root" "$root"
while IFS="	" read -r source target; do
  mkdir -p "$root$target" 2>/dev/null || true
  mount --rbind "$source" "$root$target"
done
mount -t proc proc "$root/proc"
mount -o remount,ro,bind "$root"
exec chroot "$root" "$@" </dev/null
"""
HOST = ("bin", "dev", "lib", "lib64", "opt", "root", "sbin", "sys", "usr", "var", "work", "home")


class Log:
    """What a container has said, as the kubelet keeps it."""

    def __init__(self) -> None:
        self._records: list[tuple[str, str]] = []
        self._closed = False
        self._changed = threading.Condition()

    def add(self, text: str) -> None:
        seconds, nanos = divmod(time.time_ns(), 10**9)
        stamp = f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanos:09d}Z"
        with self._changed:
            self._records.append((stamp, text))
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def after(self, position: int, timeout: float) -> tuple[list[tuple[str, str]], bool]:
        with self._changed:
            if timeout and len(self._records) <= position and not self._closed:
                self._changed.wait(timeout)
            return self._records[position:], self._closed


class Kubelet:
    def __init__(self, cluster: KubeCluster, folder: Path) -> None:
        self._cluster, self._store, self._folder = cluster, cluster.store, folder
        self._containers: dict[str, _Container] = {}  # by the pod's uid
        self._hosts = folder / "hosts"
        self._hosts.write_text("127.0.0.1 localhost\n")
        self._etc = folder / "etc"
        shutil.copytree("/etc", self._etc, symlinks=True, ignore=_unreadable)
        (self._etc / "hosts").unlink(missing_ok=True)
        (self._etc / "hosts").touch()
        (self._etc / "sdpose").mkdir()
        threading.Thread(target=self._run, name="kubelet", daemon=True).start()

    def _run(self) -> None:
        version = 0
        while not self._cluster.closed:
            with self._store.changed:
                if self._store.version == version:
                    self._store.changed.wait(0.1)
                version = self._store.version
            self._store.collect_garbage()
            pods = self._store.list("", "pods")
            names = "".join(f"127.0.0.1 {pod['metadata']['name']}\n" for _, pod in pods)
            self._hosts.write_text(f"127.0.0.1 localhost\n{names}")
            for key, pod in pods:
                container = self._containers.get(pod["metadata"]["uid"])
                if pod["metadata"].get("deletionTimestamp"):
                    if container is None or container.end():
                        self._store.remove(key)
                elif container is None and pod.get("status", {}).get("phase") == "Pending":
                    self._admit(key, pod)
        for container in self._containers.values():
            container.kill()

    def _admit(self, key: Key, pod: Object) -> None:
        """Schedules a pod and starts it, or says what it waits for."""
        cluster = self._cluster
        if message := cluster.unschedulable(pod):
            condition = {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": message,
            }
            self._set_status(key, {"phase": "Pending", "conditions": [condition]})
            return

        def bind(item: Object) -> None:
            item["spec"]["nodeName"] = "node-1"

        self._store.update(key, bind)
        spec = pod["spec"]
        for container in spec.get("initContainers", []):
            if container["image"] not in cluster.images:
                self._set_status(
                    key,
                    {
                        "phase": "Pending",
                        "initContainerStatuses": [_waiting(container, "ImagePullBackOff")],
                        "containerStatuses": [_waiting(spec["containers"][0], "PodInitializing")],
                    },
                )
                return
        main = spec["containers"][0]
        missing = [
            entry["valueFrom"]["secretKeyRef"]["name"]
            for entry in main.get("env", [])
            if "valueFrom" in entry
            and entry["valueFrom"]["secretKeyRef"]["name"] not in cluster.secrets
        ]
        if main["image"] not in cluster.images or missing:
            reason = "CreateContainerConfigError" if missing else "ImagePullBackOff"
            message = f'secret "{missing[0]}" not found' if missing else ""
            status = _waiting(main, reason, message)
            self._set_status(key, {"phase": "Pending", "containerStatuses": [status]})
            return
        self._containers[pod["metadata"]["uid"]] = _Container(
            cluster, self._folder, self._etc, self._hosts, key, pod, self._set_status
        )

    def _set_status(self, key: Key, status: Object) -> None:
        def change(item: Object) -> None:
            item["status"] = item.get("status", {}) | status

        self._store.update(key, change)

    def log(self, namespace: str, name: str, query: dict[str, str]) -> Log:
        pod = self._store.get(("", "pods", namespace, name))
        container = self._containers.get(pod["metadata"]["uid"])
        wanted = query.get("container")
        if container is None or wanted != pod["spec"]["containers"][0]["name"]:
            message = f'container "{wanted}" in pod "{name}" is waiting to start'
            raise StatusError(400, "BadRequest", message)
        return container.log

    def has_spoken(self, pod_name: str) -> bool:
        """Whether the program of a running pod has begun: it has said something."""
        return any(container.log.after(0, 0)[0] for container in self._running(pod_name))

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

    def _running(self, pod_name: str) -> list[_Container]:
        containers = list(self._containers.values())
        return [each for each in containers if each.name == pod_name and each.running]


class _Container:
    """One pod's container, from its start to its end; restarted in place if the pod wants it."""

    def __init__(
        self,
        cluster: KubeCluster,
        folder: Path,
        etc: Path,
        hosts: Path,
        key: Key,
        pod: Object,
        set_status: Callable[[Key, Object], None],
    ) -> None:
        self.name, self.log = pod["metadata"]["name"], Log()
        self._cluster, self._key, self._pod = cluster, key, pod
        self._spec = pod["spec"]["containers"][0]
        self._set_status = set_status
        self._ending: float | None = None
        self._over = threading.Event()
        self._killed_for_eviction = ""
        home = folder / "pods" / pod["metadata"]["uid"]
        self._mounts = self._make_mounts(home, folder, etc, hosts)
        self._root = home / "root"
        self._make_root()
        self._process = self._start()
        self._started = now()
        self._report("running", {"startedAt": self._started})
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def running(self) -> bool:
        return not self._over.is_set()

    def end(self) -> bool:
        """Asks it to end, kills it after the grace period; whether it is over."""
        if self._over.is_set():
            return True
        grace = self._pod["spec"].get("terminationGracePeriodSeconds", 30)
        if self._ending is None:
            self._ending = time.monotonic()
            self.signal(signal.SIGTERM)
        elif time.monotonic() - self._ending > grace:
            self.kill()
        return self._over.is_set()

    def kill(self) -> None:
        # unshare takes its children along; theirs alone would be reported by it as exit code 1.
        self._process.kill()

    def evict(self, message: str) -> None:
        self._killed_for_eviction = message
        self.kill()

    def signal(self, number: signal.Signals) -> None:
        """To the first process, as the runtime does."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self._process.pid).children():
                child.send_signal(number)

    def _make_mounts(
        self, home: Path, folder: Path, etc: Path, hosts: Path
    ) -> list[tuple[Path, str]]:
        mounts: list[tuple[Path, str]] = [(etc, "/etc"), (hosts, "/etc/hosts")]
        sources: dict[str, Path] = {}
        for volume in self._pod["spec"].get("volumes", []):
            source = home / "volumes" / volume["name"]
            if claim := volume.get("persistentVolumeClaim"):
                source = self._cluster.claims[claim["claimName"]]
            source.mkdir(parents=True, exist_ok=True)
            for item in volume.get("downwardAPI", {}).get("items", []):
                name = item["fieldRef"]["fieldPath"].split("'")[1]
                text = self._pod["metadata"]["annotations"][name]
                (source / item["path"]).write_text(text)
            sources[volume["name"]] = source
        for mount in self._spec.get("volumeMounts", []):
            mounts.append((sources[mount["name"]], mount["mountPath"]))
        programs = home / "image"
        programs.mkdir(parents=True)
        for name, program in self._cluster.images[self._spec["image"]].items():
            (programs / name).write_bytes(program)
            (programs / name).chmod(0o755)
        return [*mounts, (programs, "/image")]

    def _make_root(self) -> None:
        self._root.mkdir(parents=True)
        (self._root / "proc").mkdir()
        for name in HOST:
            place = Path("/", name)
            if place.is_symlink():
                (self._root / name).symlink_to(os.readlink(place))
            elif place.is_dir():
                (self._root / name).mkdir()
                self._mounts.insert(0, (place, f"/{name}"))
        # The code under test may lie elsewhere than in the folders above.
        for path in self._cluster.host_paths:
            if not any(path.is_relative_to(f"/{name}") for name in HOST):
                self._mounts.append((path, str(path)))
        for source, target in self._mounts:
            where = self._root / target.lstrip("/")
            if target == "/etc/hosts" or any(target.startswith(f"/{n}/") for n in (*HOST, "etc")):
                continue
            where.mkdir(parents=True, exist_ok=True)
            del source

    def _start(self) -> subprocess.Popen[bytes]:
        env = {
            "PATH": f"/image:{os.environ['PATH']}",
            "HOSTNAME": self.name,
            **{entry["name"]: self._cluster.value(entry) for entry in self._spec.get("env", [])},
            **self._cluster.container_env,
        }
        arguments = [*self._spec.get("command", []), *self._spec.get("args", [])]
        process = subprocess.Popen(
            [
                *("unshare", "--mount", "--propagation", "private"),
                *("--pid", "--fork", "--kill-child=SIGKILL"),
                *("sh", "-c", ENTER, "enter", str(self._root), "env", "-i"),
                *(f"{name}={value}" for name, value in env.items()),
                *arguments,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdin is not None
        process.stdin.write(
            "".join(f"{source}\t{target}\n" for source, target in self._mounts).encode()
        )
        process.stdin.close()
        return process

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.log.add(line.decode(errors="replace").rstrip("\n"))
        code = self._process.wait()
        code = 128 - code if code < 0 else code
        self.log.close()
        terminated = {
            "exitCode": code,
            "reason": self._cluster.reason(code),
            "startedAt": self._started,
            "finishedAt": now(),
        }
        self._over.set()
        extra: Object = {"phase": "Failed" if code else "Succeeded"}
        if self._killed_for_eviction:
            extra |= {"reason": "Evicted", "message": self._killed_for_eviction}
        self._report("terminated", terminated, extra)

    def _report(self, state: str, details: Object, extra: Object | None = None) -> None:
        status: dict[str, Any] = {
            "name": self._spec["name"],
            "image": self._spec["image"],
            "restartCount": 0,
            "ready": state == "running",
            "state": {state: details},
        }
        running: Object = {"phase": "Running", "startTime": self._started}
        scheduled = {"type": "PodScheduled", "status": "True"}
        self._set_status(
            self._key,
            {**running, **(extra or {}), "conditions": [scheduled], "containerStatuses": [status]},
        )


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
