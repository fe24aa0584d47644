"""Where Kubeflow Pipelines is, if anywhere."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from sdpose.credentials import without_secrets
from sdpose.errors import refuse_credentials

ENDPOINT_VARIABLES = ("KFP_ENDPOINT", "KF_PIPELINES_ENDPOINT")
UI_VARIABLE = "KF_PIPELINES_UI_ENDPOINT"  # kfp's own name
IN_CLUSTER_HOST = "ml-pipeline.kubeflow.svc.cluster.local"
KUBECONFIG = "kubeconfig"


@dataclass(frozen=True)
class Endpoint:
    host: str  # or `kubeconfig[:CONTEXT]`: the API server of a kubeconfig leads there
    found: str  # where the host comes from, for people

    @property
    def by_kubeconfig(self) -> bool:
        return self.host.partition(":")[0] == KUBECONFIG

    @property
    def context(self) -> str | None:
        """The kubeconfig's context that is named; None for the current one."""
        return (self.host.partition(":")[2] or None) if self.by_kubeconfig else None

    @property
    def url(self) -> str:
        return (self.host if "://" in self.host else f"https://{self.host}").rstrip("/")

    def run_page(self, run_id: str) -> str:
        """The run in KFP's web interface, or its bare id where no interface is known."""
        ui = os.environ.get(UI_VARIABLE)
        if ui is None and (self.by_kubeconfig or IN_CLUSTER_HOST in self.host):
            return f"{run_id} (${UI_VARIABLE} would make it a link)"
        return without_secrets(f"{(ui or self.url).rstrip('/')}/#/runs/details/{run_id}")


def find_endpoint(
    option: str | None, profile: str | None = None, environ: Mapping[str, str] = os.environ
) -> Endpoint | None:
    """The endpoint that is configured: by the flag, the cluster profile, the environment, or by
    being in its cluster. Raises UserError for one with credentials: it is printed, and kept.

    A pod alone is no reason (a CI job is one, too): Kubeflow's service must have an address there.
    """
    if option:
        return Endpoint(refuse_credentials(option), "--endpoint")
    if profile:
        return Endpoint(refuse_credentials(profile), "--cluster")
    for variable in ENDPOINT_VARIABLES:
        if environ.get(variable):
            return Endpoint(refuse_credentials(environ[variable]), f"${variable}")
    if environ.get("KUBERNETES_SERVICE_HOST"):
        try:
            socket.getaddrinfo(IN_CLUSTER_HOST, 8888)
        except OSError:
            return None
        return Endpoint(f"http://{IN_CLUSTER_HOST}:8888", "this is a pod of its cluster")
    return None
