"""Where Kubeflow Pipelines is, if anywhere, and whether it answers."""

from __future__ import annotations

import os
import socket
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sdpose.errors import UserError

ENDPOINT_VARIABLES = ("KFP_ENDPOINT", "KF_PIPELINES_ENDPOINT")
TOKEN_VARIABLE = "KFP_TOKEN"
# Where Kubeflow puts a token for pods that may talk to KFP (a notebook, say); kfp's own names.
TOKEN_FILE_VARIABLE = "KF_PIPELINES_SA_TOKEN_PATH"
TOKEN_FILE = "/var/run/secrets/kubeflow/pipelines/token"
IN_CLUSTER_HOST = "ml-pipeline.kubeflow.svc.cluster.local"
CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Endpoint:
    host: str
    found: str  # where the host comes from, for people

    @property
    def url(self) -> str:
        return (self.host if "://" in self.host else f"https://{self.host}").rstrip("/")


def find_endpoint(option: str | None, environ: Mapping[str, str] = os.environ) -> Endpoint | None:
    """The endpoint that is configured: by the flag, the environment, or by being in its cluster.

    A pod alone is no reason (a CI job is one, too): Kubeflow's service must have an address there.
    """
    if option:
        return Endpoint(option, "--endpoint")
    for variable in ENDPOINT_VARIABLES:
        if environ.get(variable):
            return Endpoint(environ[variable], f"${variable}")
    if environ.get("KUBERNETES_SERVICE_HOST"):
        try:
            socket.getaddrinfo(IN_CLUSTER_HOST, 8888)
        except OSError:
            return None
        return Endpoint(f"http://{IN_CLUSTER_HOST}:8888", "this is a pod of its cluster")
    return None


def check_endpoint(endpoint: Endpoint) -> None:
    """UserError within seconds if nothing that looks like KFP answers there."""
    url = f"{endpoint.url}/apis/v2beta1/healthz"
    try:
        with urllib.request.urlopen(_request(url), timeout=CONNECT_TIMEOUT_S):
            return
    except urllib.error.HTTPError as error:
        if error.code in {401, 403}:
            raise UserError(
                f"the Kubeflow Pipelines endpoint {endpoint.host} ({endpoint.found}) refuses to "
                f"talk to you (HTTP {error.code}): set ${TOKEN_VARIABLE} to a valid token"
            ) from None
        reason = f"HTTP {error.code}"
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "reason", error))
    raise UserError(
        f"no Kubeflow Pipelines at {endpoint.host} ({endpoint.found}): {url}: {reason}\n"
        "  check the address (a port-forward: kubectl -n kubeflow port-forward svc/ml-pipeline "
        "8888:8888), or run on this machine: --runner local"
    )


def token_file() -> str | None:
    path = os.environ.get(TOKEN_FILE_VARIABLE, TOKEN_FILE)
    return path if Path(path).is_file() else None


def _request(url: str) -> urllib.request.Request:
    token = os.environ.get(TOKEN_VARIABLE)
    if not token and (path := token_file()):
        token = Path(path).read_text().strip()
    return urllib.request.Request(
        url, headers={"Authorization": f"Bearer {token}"} if token else {}
    )
