"""Two small servers for the preflight: Kubernetes objects to look at, and an image registry."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

Object = dict[str, Any]


class ObjectServer(ThreadingHTTPServer):
    """GET answers what is stored under the path, else 404; access reviews by `forbidden_verbs`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), ObjectHandler)
        self.objects: dict[str, Object] = {}
        self.unreadable: tuple[str, ...] = ()  # parts of paths that we may not look at
        self.denied: set[tuple[str, str]] = set()  # (resource, verb)
        self.asked_for: list[Object] = []
        self.calls: list[tuple[str, str]] = []  # method and path

    def kubeconfig(self, path: Path) -> Path:
        entry = {"name": "test"}
        server = f"http://127.0.0.1:{self.server_port}"
        config = {
            "clusters": [entry | {"cluster": {"server": server}}],
            "users": [entry | {"user": {"token": "t"}}],
            "contexts": [entry | {"context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        }
        path.write_text(yaml.safe_dump(config))
        return path


class JsonHandler(BaseHTTPRequestHandler):
    def answer(self, content: Object, status: int = 200, **headers: str) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


class ObjectHandler(JsonHandler):
    server: ObjectServer

    def do_GET(self) -> None:
        self.server.calls.append((self.command, self.path))
        if any(part in self.path for part in self.server.unreadable):
            self.answer({"message": f"cannot look at {self.path}"}, 403)
        elif self.path in self.server.objects:
            self.answer(self.server.objects[self.path])
        else:
            self.answer({"message": "not found"}, 404)

    def do_DELETE(self) -> None:
        self.server.calls.append((self.command, self.path))
        found = self.server.objects.pop(self.path, None)
        self.answer({} if found is not None else {"message": "not found"}, 200 if found else 404)

    def do_POST(self) -> None:
        self.server.calls.append((self.command, self.path))
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if any(part in self.path for part in self.server.unreadable):
            self.answer({"message": "cannot create access reviews"}, 403)
            return
        self.server.asked_for.append(body)
        asked = body["spec"]["resourceAttributes"]
        resource = "/".join(filter(None, (asked["resource"], asked["subresource"])))
        allowed = (resource, asked["verb"]) not in self.server.denied
        self.answer(body | {"status": {"allowed": allowed}}, 201)


class ImageServer(ThreadingHTTPServer):
    """A registry that gives a token to those who log in, as Harbor, GHCR and Docker Hub do."""

    daemon_threads = True
    login = base64.b64encode(b"ada:secret").decode()

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), ImageHandler)
        self.digests: dict[str, str] = {}  # by path

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class ImageHandler(JsonHandler):
    server: ImageServer

    def do_HEAD(self) -> None:
        if self.headers.get("Authorization") != "Bearer pull":
            realm = f'Bearer realm="http://{self.server.host}/token",service="r",scope="pull"'
            self.answer({}, 401, WWW_Authenticate=realm)
        elif self.path in self.server.digests:
            self.answer({}, Docker_Content_Digest=self.server.digests[self.path])
        else:
            self.answer({}, 404)

    def do_GET(self) -> None:
        known = self.headers.get("Authorization") == f"Basic {self.server.login}"
        self.answer({"token": "pull" if known else "nothing"})


@pytest.fixture
def object_server() -> Iterator[ObjectServer]:
    with ObjectServer() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def image_server() -> Iterator[ImageServer]:
    with ImageServer() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()
