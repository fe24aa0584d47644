"""What Kubeflow Pipelines, or the API server before it, has refused, and what to do about it."""

from __future__ import annotations

from typing import Any

import urllib3

from pipelines.kfp_client.connection import COOKIE_VARIABLE, TOKEN_VARIABLE, Connection
from pipelines.kfp_client.endpoint import Endpoint
from sdpose.documents import parse_json
from sdpose.errors import UserError

TRANSIENT = {429, 500, 502, 503, 504}
# The right to reach KFP through the API server, as docs/cluster.md grants it.
PROXY_GRANTS = (
    "kubectl apply -f k8s/kfp-proxy.yaml",
    "kubectl -n kubeflow create rolebinding sdpose-kfp-proxy-team --role sdpose-kfp-proxy "
    "--group YOUR-TEAM",
)


class KfpError(UserError):
    """The endpoint refused or did not answer. status: KFP's (HTTP), 0 if nothing of it came."""

    def __init__(self, message: str, status: int, *, transient: bool | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.transient = status in TRANSIENT | {0} if transient is None else transient


def not_kfp(endpoint: Endpoint, reason: str, remedy: str = "") -> str:
    """The message where nothing of KFP has answered. remedy: "" for the general one."""
    general = (
        "check the address (a port-forward: kubectl -n kubeflow port-forward svc/ml-pipeline "
        "8888:8888; through the API server: --endpoint kubeconfig), or run on this machine: "
        "--runner local"
    )
    return (
        f"no Kubeflow Pipelines at {endpoint.host} ({endpoint.found}): {reason}\n"
        f"  {remedy or general}"
    )


def refused_by_kubernetes(
    answer: urllib3.BaseHTTPResponse, connection: Connection
) -> KfpError | None:
    """The error, if it is one of the API server's, whose proxy leads to KFP; None if it is KFP's
    own."""
    status = _json(answer)
    if connection.kubeconfig is None or status.get("kind") != "Status":
        return None
    said = str(status.get("message") or answer.reason)
    at = f"Kubernetes ({connection.credentials})"
    if answer.status == 401:
        return KfpError(
            f"{at} does not accept your credentials (HTTP 401: {said})\n"
            f"  sign in again; `kubectl --context {connection.kubeconfig.context} get --raw "
            "/version` must work",
            401,
        )
    if answer.status == 403:
        return KfpError(
            f"{at} does not let you reach Kubeflow Pipelines: {said}\n"
            "  you need get, create and delete of services/proxy, for `ml-pipeline:http`, in "
            "namespace kubeflow; an administrator grants it:\n  " + "\n  ".join(PROXY_GRANTS),
            403,
        )
    if answer.status == 404:
        return KfpError(
            f"{at} has no Kubeflow Pipelines: {said}\n"
            "  expected: the service ml-pipeline in namespace kubeflow. Is it another context "
            "(--endpoint kubeconfig:CONTEXT)?",
            0,
            transient=False,
        )
    if answer.status == 503:
        return KfpError(
            f"{at} cannot reach Kubeflow Pipelines: {said}\n"
            "  is its pod running? kubectl -n kubeflow get pods -l app=ml-pipeline",
            503,
        )
    return KfpError(f"{at} cannot reach Kubeflow Pipelines: HTTP {answer.status}: {said}", 0)


def explain_refusal(
    what: str, answer: urllib3.BaseHTTPResponse, endpoint: Endpoint, connection: Connection
) -> str:
    """What KFP, or a proxy before it, has said to the request to do `what`."""
    said = _message(answer)
    at = f"Kubeflow Pipelines at {endpoint.host} ({endpoint.found})"
    if answer.status in {301, 302, 303, 307, 308}:
        return (
            f"{at} sends to a login page: it was asked with {connection.credentials}\n"
            f"  set ${TOKEN_VARIABLE} to a token that it accepts, or ${COOKIE_VARIABLE} to the "
            "cookie of a browser session that is logged in"
        )
    if answer.status == 401:
        if connection.kubeconfig is not None:
            return (
                f"{at} does not know who you are (HTTP 401: {said}): the API server hands on no "
                "credentials, so this way is for a KFP for one user only\n"
                f"  use its own address, or a port-forward, with ${TOKEN_VARIABLE} or "
                f"${COOKIE_VARIABLE}"
            )
        return (
            f"{at} refuses to talk to you (HTTP 401: {said}): it was asked with "
            f"{connection.credentials}\n  set ${TOKEN_VARIABLE} to a valid token"
        )
    if answer.status == 403:
        return (
            f"{at}: you may not {what} (HTTP 403: {said}): it was asked with "
            f"{connection.credentials}\n  ask its administrator for the right, or name a namespace "
            "of yours (--namespace)"
        )
    return f"{at} cannot {what}: HTTP {answer.status}: {said}"


def _message(answer: urllib3.BaseHTTPResponse) -> str:
    """KFP answers {"code": ..., "message": ...}, its upload {"error_message": ...}, older releases
    {"error": ...}; a proxy before it anything."""
    body = _json(answer)
    said = body.get("error") or body.get("message") or body.get("error_message")
    return str(said or answer.reason)


def _json(answer: urllib3.BaseHTTPResponse) -> dict[str, Any]:
    try:
        body = parse_json(answer.data, "the answer")
    except (TypeError, ValueError):
        return {}
    return body if isinstance(body, dict) else {}
