"""A small server with the part of Kubeflow Pipelines' REST interface (v2beta1) that is used.

What it does is what the backend's code does (kubeflow/pipelines, backend/src/apiserver): a KFP for
one user refuses namespaces, a KFP for several needs one to list; only an ended run can be retried;
retrying and ending are remembered as states; what a run passes through is told by `script`.

Every request and every answer is checked against what a release of KFP declares: a request that it
does not know is refused, as there, and fails the test too, whatever the client makes of it.
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from servers.kfp_declaration import VERSIONS, Declaration, Operation

Object = dict[str, Any]
ENDED = {"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"}


INVALID_ARGUMENT = 3  # codes of google.rpc
INTERNAL = {"script", "retried"}  # what the server remembers of a run and does not show


class RefusedError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class KfpServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, declaration: Declaration) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.declaration = declaration
        self.undeclared: list[str] = []  # requests and answers that this KFP does not declare
        self.tag_name = declaration.version  # "unknown" where somebody built it without
        self.multi_user = False
        self.token = ""
        self.login_page = False  # without a token: a redirect, as Dex and oauth2-proxy do it
        self.forbidden: set[str] = set()  # collections that may not be written
        self.can_retry = True
        self.fail_next: list[int] = []  # statuses that the next requests are answered with
        self.lose_answer_of = ""  # a path: the request is done, the connection is cut
        self.script: list[str] = ["PENDING", "SUCCEEDED"]  # states of the next run, per look
        self.tasks: Callable[[str], list[Object]] = lambda _state: []
        self.stored: dict[str, dict[str, Object]] = {
            "experiments": {},
            "pipelines": {},
            "versions": {},
            "runs": {},
            "recurringruns": {},
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def of(self, collection: str) -> list[Object]:
        return list(self.stored[collection].values())

    def add(self, collection: str, key: str, value: Object) -> Object:
        value |= {key: str(uuid.uuid4()), "created_at": datetime.now(UTC).isoformat()}
        self.stored[collection][value[key]] = value
        return value


class Handler(BaseHTTPRequestHandler):
    server: KfpServer
    operation: Operation | None = None

    def do_GET(self) -> None:
        self.handle_request("GET")

    def do_POST(self) -> None:
        self.handle_request("POST")

    def do_DELETE(self) -> None:
        self.handle_request("DELETE")

    def handle_request(self, method: str) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = urlsplit(self.path)
        path = parts.path.removeprefix("/apis/v2beta1/")
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        server = self.server
        self.operation = server.declaration.operation(method, parts.path)
        if server.token and self.headers["Authorization"] != f"Bearer {server.token}":
            if server.login_page:
                self.send_response(302)
                self.send_header("Location", "/dex/auth?client_id=kubeflow")
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                self.refuse(401, "Request header error: there is no user identity header.")
            return
        if server.fail_next and path != "healthz":
            self.refuse(server.fail_next.pop(0), "try again")
            return
        try:
            form = self.headers.get_content_type() == "multipart/form-data"
            body = json.loads(data) if data and not form else {}
            self.check_request(method, parts.path, query, body)
            found = self.dispatch(method, path, query, body, data)
        except RefusedError as refusal:
            self.refuse(refusal.status, str(refusal))
            return
        if server.lose_answer_of == f"{method} {path}":
            self.close_connection = True
            self.connection.close()
            return
        self.answer(found)

    def check_request(self, method: str, path: str, query: Object, body: Object) -> None:
        server = self.server
        if self.operation is None:
            server.undeclared.append(f"{method} {path}: KFP {server.tag_name} has no such request")
            raise RefusedError(404, "Not Found")
        wrong = server.declaration.of_request(self.operation, query, body)
        server.undeclared += [f"{method} {path}: {each}" for each in wrong]
        if wrong:
            raise RefusedError(400, "; ".join(wrong))

    def dispatch(
        self, method: str, path: str, query: dict[str, str], body: Object, data: bytes
    ) -> Object:
        server, stored = self.server, self.server.stored
        collection = path.partition("/")[0].partition(":")[0]
        if method == "POST" and collection in server.forbidden:
            raise RefusedError(
                403, f"User 'ada' is not authorized with reason: no create {collection}"
            )
        if path == "healthz":
            # (`pipeline_store` is declared, too.)
            about = {"commit_sha": "0" * 40, "tag_name": server.tag_name}
            return about | {"multi_user": server.multi_user, "pipeline_store": "database"}
        if path in {"experiments", "pipelines", "recurringruns", "runs"} and method == "GET":
            return self.listed(path, path.replace("recurringruns", "recurringRuns"), query)
        if path == "experiments":
            self.check_namespace(body.get("namespace"))
            return server.add("experiments", "experiment_id", body)
        if path == "pipelines":
            self.check_namespace(body.get("namespace"))
            return server.add("pipelines", "pipeline_id", body)
        if path == "pipelines/upload_version":
            content = re.search(rb"\r\n\r\n(.*)\r\n--", data, re.DOTALL)
            assert content is not None
            spec, *platform = yaml.safe_load_all(content[1])
            version = {
                "name": query["name"],
                "display_name": query["name"],
                "pipeline_id": query["pipelineid"],
                "pipeline_spec": spec,
            }
            if platform:
                version["pipeline_spec"] = {"pipeline_spec": spec, "platform_spec": platform[0]}
            return server.add("versions", "pipeline_version_id", version)
        if re.fullmatch(r"pipelines/[^/]+/versions", path):
            return self.listed("versions", "pipeline_versions", query)
        if path == "runs":
            if body["experiment_id"] not in stored["experiments"]:
                raise RefusedError(404, "experiment not found")
            run = server.add("runs", "run_id", body | {"script": list(server.script)})
            return shown(run) | {"state": "PENDING"}
        if path == "recurringruns":
            return server.add("recurringruns", "recurring_run_id", body)
        if match := re.fullmatch(r"(runs|recurringruns)/([^:]+)(?::(\w+))?", path):
            name, some_id, verb = match.groups()
            if some_id not in stored[name]:
                raise RefusedError(404, f"{name} {some_id} not found")
            if method == "DELETE":
                return stored[name].pop(some_id) and {}
            return self.run(stored[name][some_id], verb)
        raise RefusedError(404, f"no such path: {path}")

    def run(self, run: Object, verb: str | None) -> Object:
        script = run["script"]
        if verb == "terminate":
            run["script"] = ["CANCELING", "CANCELED"]
            return {}
        if verb == "retry":
            if not self.server.can_retry:  # KFP 2.0
                raise RefusedError(400, "workflow cannot be retried: must be with v1 mode to retry")
            if script[0] not in ENDED:
                raise RefusedError(400, "Workflow must be Failed/Error to retry")
            run["script"] = ["RUNNING", "SUCCEEDED"]
            run["retried"] = run.get("retried", 0) + 1
            return {}
        state = script.pop(0) if len(script) > 1 else script[0]
        return shown(run) | {
            "state": state,
            "run_details": {"task_details": self.server.tasks(state)},
        }

    def listed(self, collection: str, key: str, query: dict[str, str]) -> Object:
        if collection in {"experiments", "pipelines"}:
            self.check_namespace(query.get("namespace"))
        found = self.server.of(collection)
        for predicate in json.loads(query.get("filter", "{}")).get("predicates", []):
            assert predicate["operation"] == "EQUALS"
            found = [o for o in found if o[predicate["key"]] == predicate["stringValue"]]
        if "experiment_id" in query:
            found = [o for o in found if o["experiment_id"] == query["experiment_id"]]
        if query.get("sort_by", "").endswith(" desc"):
            found = found[::-1]
        found = [
            shown(o) | ({"state": o["script"][0]} if "script" in o else {})
            for o in found[: int(query.get("page_size", 10))]
        ]
        return {key: found, "total_size": len(found)}

    def check_namespace(self, namespace: str | None) -> None:
        if namespace and not self.server.multi_user:
            raise RefusedError(400, "In single-user mode, the namespace must be empty")
        if self.server.multi_user and not namespace:
            raise RefusedError(400, "In multi-user mode, the namespace must be given")

    def refuse(self, status: int, message: str) -> None:
        """As grpc-gateway does; the upload's handler has words of its own."""
        if self.operation and self.operation.path.endswith("/upload_version"):
            self.answer({"error_message": message, "error_details": message}, status)
        else:
            self.answer({"code": INVALID_ARGUMENT, "message": message, "details": []}, status)

    def answer(self, content: Object, status: int = 200) -> None:
        if self.operation is not None and "error_message" not in content:
            wrong = self.server.declaration.of_answer(self.operation, status, content)
            self.server.undeclared += [f"answer to {self.path}: {each}" for each in wrong]
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


def shown(value: Object) -> Object:
    return {key: each for key, each in value.items() if key not in INTERNAL}


@pytest.fixture
def kfp_version() -> str:
    """The newest; tests override it by a parameter of this name."""
    return VERSIONS[-1]


@pytest.fixture
def kfp_server(kfp_version: str, kfp_api: Path) -> Iterator[KfpServer]:
    with KfpServer(Declaration(kfp_api, kfp_version)) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()
    assert server.undeclared == []
