"""The output of all pods: live, each line with its pod, none lost and none twice.

A pod's log is followed by a thread of its own. The kubelet stamps lines to the nanosecond; after a
cut connection, or a container's restart, the log is read again from the second of the last line and
what was seen is left out. What the kubelet itself writes into the stream has no stamp.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO

import urllib3

from components.kube.api import PODS, Api, Object, lines
from components.kube.errors import ApiError
from components.launcher.kinds import Kind
from components.launcher.termination import container_restarts, has_started

SILENCE_S = 120.0  # a connection that says nothing for so long may be dead: opened again
PAUSE_S = 1.0
FAILURE_PAUSE_S = 15.0
TAIL_LINES = 50
TAIL_S = 10.0
# A stamp: the second, the fraction that sinceTime does not count, the zone.
STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d)")

# Called with the replica and each of its lines, as they come.
Line = Callable[[str, str], None]


class Logs:
    """Follows the pods it is shown, until `close`."""

    def __init__(self, api: Api, kind: Kind, file: Path, line: Line) -> None:
        """file: gets every line, as `<time> [<replica>] <line>`."""
        self._api, self._kind, self._line = api, kind, line
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[str] = file.open("w", encoding="utf-8", buffering=1)
        self._lock = threading.Lock()
        self._tails: dict[str, deque[str]] = {}  # by uid
        self._followers: dict[str, _Follower] = {}  # by uid
        self._replicas: set[str] = set()

    def observe(self, pod: Object, *, deleted: bool = False) -> None:
        """Starts to follow a pod once its container has run; tells its follower of its end."""
        uid = pod["metadata"]["uid"]
        follower = self._followers.get(uid)
        if follower is None and has_started(pod, self._kind.container):
            replica = self._kind.replica(pod)
            if replica in self._replicas:
                self.note(replica, f"started again as pod {pod['metadata']['name']}")
            self._replicas.add(replica)
            self._tails[uid] = deque(maxlen=TAIL_LINES)
            follower = self._followers[uid] = _Follower(
                # The log of a lost node answers 500 for as long as the node is lost: that is no
                # outage of the API, and no reason to wait for it.
                self._api.brief(),
                pod["metadata"]["name"],
                uid,
                self._kind.container,
                partial(self._write, replica, uid),
                partial(self.note, replica),
            )
        if follower is not None:
            follower.observe(container_restarts(pod, self._kind.container)[0])
            if deleted or pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}:
                follower.pod_ended()

    def note(self, replica: str, text: str) -> None:
        """A line of our own among the pods'."""
        self._put(_now(), replica, f"-- {text}")

    def tail(self, pod: Object) -> list[str]:
        """The last lines of a pod that was followed; what was said before an end that was seen is
        waited for, at most TAIL_S."""
        uid = pod["metadata"]["uid"]
        if uid in self._followers:
            self._followers[uid].catch_up(TAIL_S)
        return list(self._tails.get(uid, ()))

    def close(self, timeout: float) -> None:
        """Waits until what ended pods said is read, at most `timeout` seconds, and stops."""
        for follower in self._followers.values():
            follower.pod_ended()
        end = time.monotonic() + timeout
        for follower in self._followers.values():
            follower.join(max(0.0, end - time.monotonic()))
            follower.stop()
        with self._lock:
            self._file.close()

    def _write(self, replica: str, uid: str, stamp: str, text: str) -> None:
        self._tails[uid].append(text)
        self._put(stamp, replica, text)

    def _put(self, stamp: str, replica: str, text: str) -> None:
        with self._lock:
            if not self._file.closed:
                self._file.write(f"{stamp} [{replica}] {text}\n")
                self._line(replica, text)


class _Follower(threading.Thread):
    """Reads the log of one pod's container to its end, through restarts and cut connections."""

    def __init__(
        self,
        api: Api,
        pod: str,
        uid: str,
        container: str,
        write: Callable[[str, str], None],
        note: Callable[[str], None],
    ) -> None:
        """write: gets the stamp and the text of each line. note: gets what we say of the log."""
        super().__init__(name=f"log of {pod} {uid[:8]}", daemon=True)
        self._stopped = threading.Event()
        self._api, self._pod, self._uid = api.until(self._stopped), pod, uid
        self._container, self._write, self._note = container, write, note
        self._restarts = self._restarts_read = 0
        self._second, self._zone = "", ""  # of the last line
        self._seen: Counter[bytes] = Counter()  # lines of that second
        self._noted = False
        self._unstamped: set[str] = set()
        self._ended = threading.Event()
        self.start()

    def observe(self, restarts: int) -> None:
        self._restarts = max(restarts, self._restarts)

    def pod_ended(self) -> None:
        self._ended.set()

    def catch_up(self, timeout: float) -> None:
        """Waits until what was said before the end of the pod, or of its container's earlier life,
        is read."""
        give_up = time.monotonic() + timeout
        while self.is_alive() and time.monotonic() < give_up:
            if self._restarts_read == self._restarts and not self._ended.is_set():
                return
            time.sleep(0.05)

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        while not self._stopped.is_set():
            ended, pause = self._ended.is_set(), PAUSE_S
            try:
                if self._read(follow=not ended) and ended:
                    return
            except (urllib3.exceptions.HTTPError, OSError):
                pass  # cut or silent
            except ApiError as error:
                # 404: the pod is gone. 400: the container waits to be started again.
                if error.status == 404 or ended:
                    return
                if error.status != 400:
                    pause = FAILURE_PAUSE_S
                    if not self._noted:
                        self._noted = True  # once: the watches meet it, too, or it is the node's
                        self._note(f"its log cannot be read now: {error}")
            self._ended.wait(pause)

    def _read(self, *, follow: bool) -> bool:
        """Hands on what is new; with `follow`, until the container ends. False if it is to be tried
        again: the container was started again, and what it said before comes first."""
        with self._open(follow=follow) as response:
            # After opening: this may be the log of a later life by now, or of the pod that has
            # taken this one's place and has its name.
            pod = self._api.get(PODS, self._pod)
            if pod is not None and pod["metadata"]["uid"] != self._uid:
                self._stopped.set()
                return False
            if pod is not None:
                self.observe(container_restarts(pod, self._container)[0])
            if self._restarts == self._restarts_read:
                self._hand_on_new(response, unfinished=not follow)
                return True
        restarts = self._restarts
        # The node may keep it no longer.
        with contextlib.suppress(ApiError), self._open(previous=True) as response:
            self._hand_on_new(response, unfinished=True)
        self._note("its container was started again")
        self._restarts_read = restarts
        return False

    def _open(self, **options: bool) -> urllib3.HTTPResponse:
        query = {"container": self._container, "timestamps": "true"}
        query |= {name: "true" for name, wanted in options.items() if wanted}
        if self._second:
            query["sinceTime"] = self._second + self._zone
        return self._api.open(PODS, query, name=self._pod, log=True, read_timeout=SILENCE_S)

    def _hand_on_new(self, response: urllib3.HTTPResponse, *, unfinished: bool) -> None:
        known = self._seen.copy()
        for line in lines(response, unfinished=unfinished):
            if self._stopped.is_set():
                return
            if known[line]:
                known[line] -= 1
            else:
                self._hand_on(line)

    def _hand_on(self, line: bytes) -> None:
        whole = line.decode(errors="replace")
        stamp, _, text = whole.partition(" ")
        match = STAMP.fullmatch(stamp)
        if match is None:
            # The kubelet's own: "unable to retrieve container logs for ...". It comes again each
            # time that the log is opened.
            if whole not in self._unstamped:
                self._unstamped.add(whole)
                self._write(_now(), whole)
            return
        second, zone = match.groups()
        if second > self._second:
            self._second, self._zone = second, zone
            self._seen.clear()
        if second == self._second:
            self._seen[line] += 1
        # A bar that redraws its line says something new after its last carriage return.
        self._write(stamp, text.rstrip("\r").rpartition("\r")[2])


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
