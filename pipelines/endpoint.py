"""Where Kubeflow Pipelines is, if anywhere, and with which credentials it is asked."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import kfp_server_api  # type: ignore[import-untyped]

from sdpose.errors import UserError

ENDPOINT_VARIABLES = ("KFP_ENDPOINT", "KF_PIPELINES_ENDPOINT")
UI_VARIABLE = "KF_PIPELINES_UI_ENDPOINT"  # kfp's own name
TOKEN_VARIABLE = "KFP_TOKEN"
COOKIE_VARIABLE = "KFP_COOKIE"  # of a browser session, where Dex or a proxy stands before KFP
CA_VARIABLE = "SSL_CERT_FILE"
# Where Kubeflow puts a token for pods that may talk to KFP (a notebook, say); kfp's own names.
TOKEN_FILE_VARIABLE = "KF_PIPELINES_SA_TOKEN_PATH"
TOKEN_FILE = "/var/run/secrets/kubeflow/pipelines/token"
IN_CLUSTER_HOST = "ml-pipeline.kubeflow.svc.cluster.local"
KUBECONFIG = "kubeconfig"
PROXIED_SERVICE = "/api/v1/namespaces/kubeflow/services/ml-pipeline:http/proxy"


@dataclass(frozen=True)
class Endpoint:
    host: str  # or `kubeconfig[:CONTEXT]`: the API server of a kubeconfig leads there
    found: str  # where the host comes from, for people

    @property
    def by_kubeconfig(self) -> bool:
        return self.host.partition(":")[0] == KUBECONFIG

    @property
    def url(self) -> str:
        return (self.host if "://" in self.host else f"https://{self.host}").rstrip("/")

    def run_page(self, run_id: str) -> str:
        """The run in KFP's web interface, or its bare id where no interface is known."""
        ui = os.environ.get(UI_VARIABLE)
        if ui is None and (self.by_kubeconfig or IN_CLUSTER_HOST in self.host):
            return f"{run_id} (${UI_VARIABLE} would make it a link)"
        return f"{(ui or self.url).rstrip('/')}/#/runs/details/{run_id}"


def find_endpoint(
    option: str | None, profile: str | None = None, environ: Mapping[str, str] = os.environ
) -> Endpoint | None:
    """The endpoint that is configured: by the flag, the cluster profile, the environment, or by
    being in its cluster.

    A pod alone is no reason (a CI job is one, too): Kubeflow's service must have an address there.
    """
    if option:
        return Endpoint(option, "--endpoint")
    if profile:
        return Endpoint(profile, "--cluster")
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


def connection(endpoint: Endpoint) -> tuple[kfp_server_api.ApiClient, str]:
    """A client of the endpoint, and with which credentials it asks, for people."""
    config = kfp_server_api.Configuration()
    config.ssl_ca_cert = os.environ.get(CA_VARIABLE)
    config.retries = False  # no redirects to a login page, and we decide what is tried again
    if endpoint.by_kubeconfig:
        return kfp_server_api.ApiClient(config), _by_kubeconfig(config, endpoint)
    config.host = endpoint.url
    cookie = os.environ.get(COOKIE_VARIABLE)
    config.api_key_prefix["authorization"] = "Bearer"
    if token := os.environ.get(TOKEN_VARIABLE):
        config.api_key["authorization"] = token
        credentials = f"${TOKEN_VARIABLE}"
    elif path := _token_file():
        config.api_key["authorization"] = "read by the hook"
        config.refresh_api_key_hook = lambda to: to.api_key.update(
            authorization=Path(path).read_text(encoding="utf-8").strip()  # the kubelet renews it
        )
        credentials = f"the token in {path}"
    else:
        credentials = f"${COOKIE_VARIABLE}" if cookie else "no credentials"
    return kfp_server_api.ApiClient(config, cookie=cookie), credentials


def _by_kubeconfig(config: kfp_server_api.Configuration, endpoint: Endpoint) -> str:
    from kubernetes.config import ConfigException, load_kube_config

    context = endpoint.host.partition(":")[2] or None
    try:
        # (The library looks at $KUBECONFIG only once, when it is imported.)
        load_kube_config(
            config_file=os.environ.get("KUBECONFIG"), client_configuration=config, context=context
        )
    except (ConfigException, OSError) as error:
        raise UserError(
            f"--endpoint {endpoint.host}: {error}; `kubectl config get-contexts` lists the contexts"
        ) from None
    config.host = config.host.rstrip("/") + PROXIED_SERVICE
    return f"the kubeconfig's context {context}" if context else "the kubeconfig's current context"


def _token_file() -> str | None:
    path = os.environ.get(TOKEN_FILE_VARIABLE, TOKEN_FILE)
    return path if Path(path).is_file() else None
