"""One pod's container as a process with its own mounts and process numbers.

It sees this machine's files, read-only, its volumes where they are mounted, and the cluster's names
in /etc/hosts. Its image is a folder of programs that come first in its PATH. Needs root, for the
mounts. It dies with the test process, whatever ends that.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from tests.cluster.kube.expansion import expand
from tests.cluster.kube.store import Key, Object, now

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
BACK_OFF_S = 0.2  # the real one begins with 10 s


class Log:
    """What a container has said in one life, as the kubelet keeps it."""

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

    def add_unstamped(self, text: str) -> None:
        """What the kubelet itself writes into the stream."""
        with self._changed:
            self._records.append(("", text))
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


class Container(threading.Thread):
    """From its start to its end; restarted in place if the pod's restartPolicy says so."""

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
        super().__init__(name=f"container of {pod['metadata']['name']}", daemon=True)
        self.pod_name, self.log = pod["metadata"]["name"], Log()
        self.node = pod["spec"]["nodeName"]
        self.previous_log: Log | None = None
        self._cluster, self._key, self._pod = cluster, key, pod
        self._spec = pod["spec"]["containers"][0]
        self._set_status = set_status
        self._process: subprocess.Popen[bytes] | None = None
        self._restarts, self._last_state = 0, Object()
        self._asked_at: float | None = None  # to end
        self._final = threading.Event()  # no life after the present one
        self._over = threading.Event()
        self._killed_for_eviction = ""
        self._vanished = False
        home = folder / "pods" / pod["metadata"]["uid"]
        self._mounts = self._make_mounts(home, etc, hosts)
        self._root = home / "root"
        self._make_root()
        self.start()

    @property
    def running(self) -> bool:
        return not self._over.is_set()

    def end(self) -> bool:
        """Asks it to end, kills it after the grace period; whether it is over."""
        if self._over.is_set():
            return True
        self._final.set()
        grace = self._pod["spec"].get("terminationGracePeriodSeconds", 30)
        if self._asked_at is None:
            self._asked_at = time.monotonic()
            self.signal(signal.SIGTERM)
        elif time.monotonic() - self._asked_at > grace:
            self.kill()
        return self._over.is_set()

    def kill(self) -> None:
        # unshare takes its children along; theirs alone would be reported by it as exit code 1.
        if self._process is not None:
            self._process.kill()

    def evict(self, message: str) -> None:
        self._killed_for_eviction = message
        self._final.set()
        self.kill()

    def destroy(self) -> None:
        """With the cluster."""
        self._final.set()
        self.kill()

    def vanish(self) -> None:
        """Dies with its node: nothing is reported, and a log that is being read just stops."""
        if self.running:
            self._vanished = True
            self.destroy()

    def report_vanished(self) -> None:
        """What the kubelet of a restarted node reports about a container that it ran before."""
        if not self._vanished:
            return  # it had ended before
        self._vanished = False
        ended = {"exitCode": 137, "reason": "ContainerStatusUnknown", "finishedAt": now()}
        ended["message"] = "The container could not be located when the pod was terminated"
        self.log.close()
        self._report("terminated", ended, {"phase": "Failed"})

    def signal(self, number: signal.Signals) -> None:
        """To the first process, as the runtime does."""
        if self._process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(self._process.pid).children():
                    child.send_signal(number)

    # ------------------------------------------------------------------------------------- inside

    def run(self) -> None:
        try:
            while self._live():
                self._final.wait(BACK_OFF_S)
        except BaseException as error:
            self._cluster.close(f"the test's {self.name} has failed: {error!r}")
            raise
        finally:
            self._over.set()

    def _live(self) -> bool:
        """One life; whether there is another one after it."""
        policy = self._pod["spec"].get("restartPolicy", "Always")
        started = now()
        process = self._process = self._start()
        if self._final.is_set():
            process.kill()
        # Until here the log is that of the life before, as the kubelet has it during back-off.
        with self._cluster.store.changed:
            if self._restarts:
                self.previous_log, self.log = self.log, Log()
            self._report("running", {"startedAt": started})
        assert process.stdout is not None
        for line in process.stdout:
            self.log.add(line.decode(errors="replace").rstrip("\n"))
        code = process.wait()
        code = 128 - code if code < 0 else code
        if self._vanished:
            return False
        self.log.close()
        ended = {
            "exitCode": code,
            "reason": self._cluster.reason(code),
            "startedAt": started,
            "finishedAt": now(),
        }
        if not self._final.is_set() and (policy == "Always" or (policy == "OnFailure" and code)):
            self._restarts += 1
            self._last_state = {"terminated": ended}
            self._report("waiting", {"reason": "CrashLoopBackOff", "message": "back-off 10s"})
            return True
        self._over.set()
        extra: Object = {"phase": "Failed" if code else "Succeeded"}
        if self._killed_for_eviction:
            extra |= {"reason": "Evicted", "message": self._killed_for_eviction}
        self._report("terminated", ended, extra)
        return False

    def _start(self) -> subprocess.Popen[bytes]:
        declared: dict[str, str] = {}
        for entry in self._spec.get("env", []):
            value = self._cluster.value(entry, self._pod)
            # As the kubelet does it: with the variables before this one.
            declared[entry["name"]] = expand(value, declared) if "value" in entry else value
        env = {
            "PATH": f"/image:{os.environ['PATH']}",
            "HOSTNAME": self.pod_name,
            **declared,
            **self._cluster.container_env,
        }
        words = [*self._spec.get("command", []), *self._spec.get("args", [])]
        arguments = [expand(word, declared) for word in words]
        process = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL"),  # with this thread
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

    def _report(self, state: str, details: Object, extra: Object | None = None) -> None:
        if self._vanished:
            return
        status: dict[str, Any] = {
            "name": self._spec["name"],
            "image": self._spec["image"],
            "restartCount": self._restarts - (state == "waiting"),
            "ready": state == "running",
            "state": {state: details},
            "lastState": self._last_state,
        }
        running: Object = {"phase": "Running", "startTime": now()}
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": now()}
        if state != "running":
            ready |= {"status": "False", "reason": "ContainersNotReady"}
        conditions = [{"type": "PodScheduled", "status": "True"}, ready]
        if self._killed_for_eviction:
            reason = "TerminationByKubelet"
            conditions.append({"type": "DisruptionTarget", "status": "True", "reason": reason})
        self._set_status(
            self._key,
            {**running, **(extra or {}), "conditions": conditions, "containerStatuses": [status]},
        )

    # -------------------------------------------------------------------------------------- files

    def _make_mounts(self, home: Path, etc: Path, hosts: Path) -> list[tuple[Path, str]]:
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
        for _, target in self._mounts:
            if target == "/etc/hosts" or any(target.startswith(f"/{n}/") for n in (*HOST, "etc")):
                continue
            (self._root / target.lstrip("/")).mkdir(parents=True, exist_ok=True)
