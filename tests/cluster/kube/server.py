"""The API server: REST over HTTP with chunked watches and logs, and the faults that a test asks
for."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from tests.cluster.kube import kueue
from tests.cluster.kube.store import Event, Object, StatusError, matches

if TYPE_CHECKING:
    from tests.cluster.kube.cluster import KubeCluster

BOOKMARK_S = 0.5
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
KINDS = {
    ("kubeflow.org", "pytorchjobs"): "PyTorchJob",
    ("trainer.kubeflow.org", "trainjobs"): "TrainJob",
    ("trainer.kubeflow.org", "trainingruntimes"): "TrainingRuntime",
    ("trainer.kubeflow.org", "clustertrainingruntimes"): "ClusterTrainingRuntime",
    ("kueue.x-k8s.io", "workloads"): "Workload",
    ("argoproj.io", "workflows"): "Workflow",
    ("", "pods"): "Pod",
    ("", "events"): "Event",
    ("", "secrets"): "Secret",
}
CLUSTER_WIDE = {"clustertrainingruntimes"}

REASONS = {
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    422: "Invalid",
    429: "TooManyRequests",
    503: "ServiceUnavailable",
    504: "Timeout",
}


@dataclass(frozen=True)
class Call:
    verb: str
    group: str
    resource: str  # with its subresource: pods/log
    namespace: str  # "" for the cluster


@dataclass
class Fault:
    """What happens to the next `times` calls that `when` picks.

    what: an HTTP status; "page": a 404 that is no Status, as for unknown kinds; "refuse": the
    connection is closed before anything is done; "lose": after it; "slow": `seconds` late;
    "stall": no answer for `seconds`, then as "refuse"; "cut": a stream ends in the middle of a line
    after `seconds`; "end": a stream ends at once, in order.
    """

    what: int | str
    when: Callable[[Call], bool] = lambda _call: True
    times: int = 1
    seconds: float = 0.0
    retry_after: int | None = None
    message: str = "a fault of the test"
    met: int = 0


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, cluster: KubeCluster) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.cluster = cluster
        threading.Thread(target=self.serve_forever, args=(0.1,), daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that went away


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815

    def _serve(self) -> None:
        cluster = self.server.cluster
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}")
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        document = self._document(url.path)
        group, namespace, plural, name, sub = target = _parse(url.path)
        verb = _verb(self.command, name, query)
        call = Call(verb, group, f"{plural}/{sub}" if sub else plural, namespace)
        if document is not None:
            call = Call("get", "", url.path, "")
        fault = cluster.meet(call)
        if cluster.closed:
            self._error(StatusError(403, "Forbidden", cluster.closed))
        elif self.headers.get("Authorization", "").split(" ")[-1] not in cluster.tokens:
            self._error(StatusError(401, "Unauthorized", "Unauthorized"))
        elif document is not None:
            if fault is None or not self._fails(fault):
                self._answer(200, json.dumps(document).encode())
        elif (
            (group, plural) not in KINDS
            or bool(namespace) == (plural in CLUSTER_WIDE)
            or plural in cluster.unknown
            or (group == kueue.GROUP and cluster.kueue is None)
        ):
            self._answer(404, b"404 page not found\n", "text/plain")
        elif fault is None or not self._fails(fault):
            self._succeed(call, target, query, body, fault)

    def _document(self, path: str) -> Object | None:
        """Discovery and OpenAPI of a group's version, which every account may read."""
        found = re.fullmatch(r"(/openapi/v3)?/apis/([^/]+)/([^/]+)", path)
        if found is None:
            return None
        cluster = self.server.cluster
        if not found[1] and (found[2], found[3]) == (kueue.GROUP, kueue.VERSION):
            return kueue.RESOURCES if cluster.kueue is not None else None
        of = cluster.crds.openapi if found[1] else cluster.crds.resources
        return of(found[2], found[3], cluster.unknown)

    def _fails(self, fault: Fault) -> bool:
        """Whether the call ends here."""
        if fault.what == "slow":
            time.sleep(fault.seconds)
        elif fault.what == "refuse":
            self._hang_up()
        elif fault.what == "stall":
            self.server.cluster.wait_for_close(fault.seconds)
            self._hang_up()
        elif fault.what == "page":
            self._answer(404, b"404 page not found\n", "text/plain")
        elif isinstance(fault.what, int):
            headers = {"Retry-After": str(fault.retry_after)} if fault.retry_after else {}
            reason = REASONS.get(fault.what, "InternalError")
            self._error(StatusError(fault.what, reason, fault.message), headers)
        return fault.what in {"refuse", "stall", "page"} or isinstance(fault.what, int)

    def _succeed(
        self,
        call: Call,
        target: tuple[str, str, str, str, str],
        query: dict[str, str],
        body: Object,
        fault: Fault | None,
    ) -> None:
        group, namespace, plural, name, sub = target
        end = time.monotonic() + fault.seconds if fault and fault.what == "cut" else None
        try:
            if fault is not None and fault.what == "end" and _is_stream(call, query):
                self._start("application/json")
                self._chunk(b"")
            elif sub == "log":
                self._log(namespace, name, query, end)
            elif call.verb == "watch":
                self._watch(group, plural, namespace, query, end)
            else:
                answer = self._do(call.verb, group, plural, namespace, name, query, body)
                if fault is not None and fault.what == "lose":
                    self._hang_up()
                else:
                    code = 201 if call.verb == "create" else 200
                    self._answer(code, json.dumps(answer).encode())
        except StatusError as error:
            self._error(error)

    def _do(
        self,
        verb: str,
        group: str,
        plural: str,
        namespace: str,
        name: str,
        query: dict[str, str],
        body: Object,
    ) -> Object:
        cluster = self.server.cluster
        store, key = cluster.store, (group, plural, namespace, name)
        if verb == "get":
            return store.get(key)
        if verb == "list":
            with store.changed:
                items = [
                    item
                    for _, item in store.list(group, plural, namespace)
                    if matches(item, query.get("labelSelector", ""), query.get("fieldSelector", ""))
                ]
                return {
                    "kind": f"{KINDS[group, plural]}List",
                    "metadata": {"resourceVersion": str(store.version)},
                    "items": items,
                }
        if verb == "create":
            strict = query.get("fieldValidation") == "Strict"
            cluster.admission.check(plural, body, strict=strict)
            if cluster.kueue is not None:
                cluster.kueue.admit_webhook(plural, body)
            return store.create(group, plural, body)
        if verb == "patch":
            uid = body.get("metadata", {}).get("uid")
            if uid is not None and store.get(key)["metadata"]["uid"] != uid:
                raise StatusError(422, "Invalid", "metadata.uid: Invalid value: field is immutable")
            changed = store.update(key, lambda item: _merge(item, body))
            return changed or store.get(key)
        assert verb == "delete"
        uid = body.get("preconditions", {}).get("uid")
        return store.delete(key, policy=body.get("propagationPolicy", "Background"), uid=uid)

    def _watch(
        self, group: str, plural: str, namespace: str, query: dict[str, str], end: float | None
    ) -> None:
        cluster, store = self.server.cluster, self.server.cluster.store
        cuts = cluster.streams_cut
        version = int(query["resourceVersion"])
        stop = time.monotonic() + float(query.get("timeoutSeconds", 60))
        self._start("application/json")
        while not cluster.closed and time.monotonic() < stop:
            events = store.events_after(version, BOOKMARK_S)
            if events is None:
                gone = StatusError(410, "Expired", f"too old resource version: {version}")
                self._chunk(json.dumps({"type": "ERROR", "object": gone.status()}).encode() + b"\n")
                break
            for event in events:
                version = event.version
                if event.key[:3] == (group, plural, namespace) and matches(
                    event.object, query.get("labelSelector", ""), query.get("fieldSelector", "")
                ):
                    line = _event(event)
                    if end is not None and time.monotonic() > end:
                        self._chunk(line[: len(line) // 2])
                        self._hang_up()
                        return
                    self._chunk(line + b"\n")
            if cluster.streams_cut > cuts or (end is not None and time.monotonic() > end):
                self._hang_up()
                return
            if not events and query.get("allowWatchBookmarks") == "true":
                with store.changed:
                    version = max(version, store.version)
                meta = {"resourceVersion": str(version)}
                bookmark = {"type": "BOOKMARK", "object": {"metadata": meta}}
                self._chunk(json.dumps(bookmark).encode() + b"\n")
        self._chunk(b"")

    def _log(self, namespace: str, name: str, query: dict[str, str], end: float | None) -> None:
        cluster, cuts = self.server.cluster, self.server.cluster.streams_cut
        cluster.store.get(("", "pods", namespace, name))
        log = cluster.kubelet.log(namespace, name, query)
        follow = query.get("follow") == "true"
        since = query.get("sinceTime", "")
        if since and not RFC_3339.fullmatch(since):
            raise StatusError(
                400, "BadRequest", f'invalid sinceTime: parsing time "{since}" as RFC 3339'
            )
        self._start("text/plain")
        position = 0
        while True:
            records, closed = log.after(position, BOOKMARK_S if follow else 0)
            position += len(records)
            for stamp, text in records:
                if stamp and stamp[:19] < since[:19]:
                    continue
                line = (f"{stamp} {text}\n" if stamp else f"{text}\n").encode()
                if end is not None and time.monotonic() > end:
                    self._chunk(line[: len(line) // 2])
                    self._hang_up()
                    return
                self._chunk(line)
            if closed or not follow or cluster.closed:
                break
            if cluster.streams_cut > cuts or (end is not None and time.monotonic() > end):
                self._hang_up()
                return
        self._chunk(b"")

    # ----------------------------------------------------------------------------------- the wire

    def _start(self, content_type: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _error(self, error: StatusError, headers: dict[str, str] | None = None) -> None:
        self._answer(error.code, json.dumps(error.status()).encode(), headers=headers)

    def _answer(
        self,
        code: int,
        body: bytes,
        content_type: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


def _parse(path: str) -> tuple[str, str, str, str, str]:
    """Group, namespace, plural, name and subresource of a path; "" for what it has not."""
    root, *parts = path.strip("/").split("/")
    group, rest = ("", parts[1:]) if root == "api" else (parts[0], parts[2:])
    namespace = ""
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    plural, name, sub = (*rest, "", "", "")[:3]
    return group, namespace, plural, name, sub


def _is_stream(call: Call, query: dict[str, str]) -> bool:
    return call.verb == "watch" or query.get("follow") == "true"


def _verb(method: str, name: str, query: dict[str, str]) -> str:
    if method == "GET":
        watch = "watch" if query.get("watch") == "true" else "list"
        return "get" if name else watch
    return {"POST": "create", "PATCH": "patch", "DELETE": "delete"}[method]


def _merge(item: Object, patch: Object) -> None:
    """RFC 7386."""
    for key, value in patch.items():
        if value is None:
            item.pop(key, None)
        elif isinstance(value, dict):
            _merge(item.setdefault(key, {}), value)
        else:
            item[key] = value


def _event(event: Event) -> bytes:
    return json.dumps({"type": event.type, "object": event.object}).encode()
