"""The API server of a cluster with Kubeflow Pipelines, as far as a client of KFP meets it: TLS with
its own authority, authentication, RBAC of `services/proxy`, and the proxy.

What it does is what kube-apiserver does: it asks for a client certificate and demands none, takes
the Authorization header away before it proxies (KFP never sees who asks), and answers with a
Status. Paths that lead to no service are the cluster's own objects.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from servers.tls import ADDRESS, Authority

Object = dict[str, Any]

PROXY = re.compile(r"/api/v1/namespaces/([^/]+)/services/([^/]+)/proxy(/.*)")
VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
REASONS = {
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    503: "ServiceUnavailable",
}


class KubeApi(ThreadingHTTPServer):
    """authority: issued the server's certificate, and those of clients that are trusted."""

    daemon_threads = True

    def __init__(self, folder: Path, kfp_port: int, objects_port: int) -> None:
        super().__init__((ADDRESS, 0), Handler)
        self.authority = Authority(folder / "authority", "the cluster of the tests")
        self.kfp_port, self.objects_port = kfp_port, objects_port
        self.tokens: set[str] = set()  # that are accepted
        self.allowed: set[tuple[str, str, str]] = set()  # namespace, service, verb
        self.used: set[tuple[str, str, str]] = set()
        self.service = "ml-pipeline:http"  # with its port, as requests name it
        self.has_pod = True  # of the service
        self.users: list[str] = []  # who has asked, request by request
        self.proxied: list[str] = []  # method and path
        self.use(*self.authority.issue("server", ADDRESS))

    def use(self, certificate: Path, key: Path) -> None:
        """Connections from now on get this certificate."""
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._context.load_verify_locations(self.authority.file)
        self._context.verify_mode = ssl.CERT_OPTIONAL

    @property
    def url(self) -> str:
        return f"https://{ADDRESS}:{self.server_port}"

    def get_request(self) -> tuple[socket.socket, Any]:
        plain, address = super().get_request()
        # The handshake is made by the connection's own thread.
        wrapped = self._context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        return wrapped, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that do not trust the certificate go away in mid-handshake."""

    def kubeconfig(self, path: Path, user: Object, **cluster: Any) -> Path:
        """With one context, `lab`. cluster: changes; None leaves out."""
        entry: Object = {"server": self.url, "certificate-authority": str(self.authority.file)}
        entry = {key: value for key, value in (entry | cluster).items() if value is not None}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "cluster", "cluster": entry}],
            "users": [{"name": "ada", "user": user}],
            "contexts": [{"name": "lab", "context": {"cluster": "cluster", "user": "ada"}}],
            "current-context": "lab",
        }
        # Not in place: somebody may be reading it.
        path.with_suffix(".new").write_text(yaml.safe_dump(config))
        path.with_suffix(".new").replace(path)
        return path

    def grant(self, namespace: str, services: list[str], verbs: list[str]) -> None:
        self.allowed |= {(namespace, each, verb) for each in services for verb in verbs}

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: KubeApi
    protocol_version = "HTTP/1.1"  # connections stay open, as there
    connection: ssl.SSLSocket

    def do_GET(self) -> None:
        self.serve()

    def do_POST(self) -> None:
        self.serve()

    def do_DELETE(self) -> None:
        self.serve()

    def serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        user = self.user()
        if user is None:
            self.refuse(401, "Unauthorized")
            return
        self.server.users.append(user)
        found = PROXY.fullmatch(self.path)
        if found is None:
            self.relay(self.server.objects_port, self.path, body, self.headers["Authorization"])
            return
        namespace, service, path = found.groups()
        verb = VERBS[self.command]
        right = namespace, service, verb
        if right not in self.server.allowed:
            self.refuse(
                403,
                f'services "{service}" is forbidden: User "{user}" cannot {verb} resource '
                f'"services/proxy" in API group "" in the namespace "{namespace}"',
            )
        elif service != self.server.service:
            self.refuse(404, f'services "{service.partition(":")[0]}" not found')
        elif not self.server.has_pod:
            self.refuse(503, f'no endpoints available for service "{service}"')
        else:
            self.server.used.add(right)
            self.server.proxied.append(f"{self.command} {path}")
            self.relay(self.server.kfp_port, path, body, None)

    def user(self) -> str | None:
        certificate = self.connection.getpeercert()
        if certificate:
            return str(dict(part[0] for part in certificate["subject"])["commonName"])
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if scheme == "Bearer" and token in self.server.tokens:
            return f"token:{token}"
        return None

    def relay(self, port: int, path: str, body: bytes, authorization: str | None) -> None:
        headers = {
            key: value
            for key, value in self.headers.items()
            if key.lower() not in {"authorization", "host", "connection"}
        }
        if authorization:
            headers["Authorization"] = authorization
        upstream = http.client.HTTPConnection(ADDRESS, port, timeout=60)
        try:
            upstream.request(self.command, path, body, headers)
            answer = upstream.getresponse()
            self.send(answer.status, answer.read(), answer.headers.get_content_type())
        finally:
            upstream.close()

    def refuse(self, status: int, message: str) -> None:
        content = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": REASONS[status],
            "code": status,
        }
        self.send(status, json.dumps(content).encode(), "application/json")

    def send(self, status: int, data: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass
