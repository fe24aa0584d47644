"""Kubeflow Trainer's endpoint for the status of a TrainJob (pkg/statusserver), over TLS: what it
refuses, and the status that it keeps."""

from __future__ import annotations

import copy
import json
import secrets
import ssl
import threading
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from servers.tls import self_signed

PATH = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/pose/trainjobs/job/status"
MAX_BODY = 1 << 16

Object = dict[str, Any]


class StatusServer(ThreadingHTTPServer):
    """answer: "" as the real one; "500"; "hang": nothing, until `release` is set."""

    daemon_threads = True

    def __init__(self, folder: Path, crds: list[Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.ca_file, key = self_signed(folder)
        self.token_file = folder / "token"
        self.rotate_token()
        self.answer = ""
        self.release = threading.Event()
        self.requests = 0
        self.refusals: list[tuple[int, str]] = []
        self.statuses: list[Object] = []  # trainerStatus, each as a whole
        self.validators = [Draft202012Validator(_schema(path)) for path in crds]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.ca_file, key)
        # (The handshake is done by the connection's own thread.)
        self.socket = context.wrap_socket(
            self.socket, server_side=True, do_handshake_on_connect=False
        )
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.server_address[1]}{PATH}"

    @property
    def environment(self) -> dict[str, str]:
        """What Trainer gives to every pod."""
        return {
            "KUBEFLOW_TRAINER_SERVER_URL": self.url,
            "KUBEFLOW_TRAINER_SERVER_CA_CERT": str(self.ca_file),
            "KUBEFLOW_TRAINER_SERVER_TOKEN": str(self.token_file),
        }

    def rotate_token(self) -> None:
        """As the kubelet does within an hour: the old one is not accepted any more."""
        self.token = secrets.token_hex(8)
        self.token_file.write_text(self.token)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that went away


class _Handler(BaseHTTPRequestHandler):
    server: StatusServer

    def log_message(self, *_: Any) -> None: ...

    def do_POST(self) -> None:
        server = self.server
        server.requests += 1
        if server.answer == "hang":
            server.release.wait()
            return
        if server.answer == "500":
            self._refuse(500, "Internal error")
            return
        if self.path != PATH:
            self._refuse(404, "Not found")
            return
        if self.headers.get("Authorization") != f"Bearer {server.token}":
            self._refuse(403, "Forbidden")
            return
        length = int(self.headers.get("Content-Length") or 0)
        if length > MAX_BODY:
            self._refuse(413, "Payload too large")
            return
        try:
            document = json.loads(self.rfile.read(length))
            status = document["trainerStatus"]
            assert set(document) == {"trainerStatus"}
            for validator in server.validators:
                validator.validate(status)
            datetime.strptime(status["lastUpdatedTime"], "%Y-%m-%dT%H:%M:%SZ")
        except Exception as error:
            self._refuse(422, f"Invalid payload: {error!r}")
            return
        server.statuses.append(status)
        self._answer(200, document)

    def _refuse(self, code: int, message: str) -> None:
        self.server.refusals.append((code, message))
        self._answer(code, {"status": "Failure", "message": message, "code": code})

    def _answer(self, code: int, document: Object) -> None:
        body = json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _schema(crd: Path) -> Object:
    """Of status.trainerStatus; fields that it does not have are refused."""
    document = yaml.load(crd.read_text(), Loader=yaml.CSafeLoader)
    version = document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema = copy.deepcopy(version["properties"]["status"]["properties"]["trainerStatus"])
    schema["additionalProperties"] = False
    schema["properties"]["metrics"]["items"]["additionalProperties"] = False
    schema["required"] = ["lastUpdatedTime"]  # by a validation rule (CEL)
    return schema
