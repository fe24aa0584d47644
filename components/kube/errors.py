"""Failed requests to Kubernetes: how long each is worth another try, and what it means for people.

None of them is a reason to remove a job.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException

from components.kube.kubeconfig import CredentialError
from sdpose.documents import parse_json
from sdpose.errors import UserError

# The server, or what stands before it, cannot answer now.
UNAVAILABLE = {408, 425, 429, 500, 502, 503, 504}
# An admission webhook, a quota or Pod Security: the same object is refused again.
DENIED = ("denied the request", "exceeded quota", "violates PodSecurity")

RetryBudget = Literal["outage", "refusal", "none"]


class ApiError(Exception):
    """Kubernetes did not do what it was asked."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status  # HTTP's; 0: no answer

    def add(self, text: str) -> None:
        """Adds to the message."""
        self.args = (f"{self.args[0]}; {text}",)


class ApiRefusedError(ApiError, UserError):
    """The API refuses: no right, no credentials, no such kind, or an object that is not valid."""


class ApiUnavailableError(ApiError):
    """The API did not answer, or answered with its own errors, for the whole retry budget."""


@dataclass(frozen=True)
class RequestFailure:
    """One request that failed."""

    status: int
    why: str  # for people who wait
    budget: RetryBudget
    wait_s: float | None  # that the server asks for
    refusal: str = ""  # for people, if it stays so; "" if nobody answered


def classify_failure(error: Exception, method: str, path: str, *, known: bool) -> RequestFailure:
    """What a failed request means, and for how long the same request is worth another try.

    A server that has just started answers 403 until it knows the roles, and 404 until it knows the
    kinds of its CustomResourceDefinitions; tokens are replaced while they are in use.

    Args:
        known: a request of this process has succeeded before.
    """
    # A token file that is being replaced, a credential plugin that failed.
    if isinstance(error, (ConfigException, CredentialError)):
        return RequestFailure(401, str(error), "refusal", None, f"no access to Kubernetes: {error}")
    if not isinstance(error, ApiException):
        return RequestFailure(0, f"{type(error).__name__}: {error}", "outage", None)
    return RequestFailure(
        error.status,
        _status_line(error),
        _retry_budget(error, method, known=known),
        _retry_after(error),
        _explain(error, method, path),
    )


def _retry_budget(error: ApiException, method: str, *, known: bool) -> RetryBudget:
    if error.status in UNAVAILABLE:
        return "outage"
    if error.status in {401, 409}:
        return "refusal"
    denied = error.status == 403 and any(text in message_of(error) for text in DENIED)
    no_namespace = error.status == 404 and reason_of(error) == "NotFound" and method == "POST"
    if denied or no_namespace or not known:
        return "none"
    return "refusal" if error.status in {403, 404, 410} else "none"


def _explain(error: ApiException, method: str, path: str) -> str:
    """The refusal, and what to do about it."""
    message = message_of(error)
    if error.status == 401:
        return (
            f"Kubernetes does not accept our credentials (HTTP 401: {message}); sign in again, or "
            "look at the service account's token"
        )
    if error.status == 403:
        return (
            f"Kubernetes forbids it: {message}; the launcher's Role is in k8s/ "
            "(`python pipelines/submit.py --check` lists what is missing)"
        )
    _, _, namespaced = path.partition("/namespaces/")
    if error.status == 404 and reason_of(error) != "NotFound" and namespaced:
        return (
            f"this cluster knows no {namespaced.split('/')[1]}: install their operator, or choose "
            "another train_api (pytorchjob, trainjob, auto)"
        )
    return f"Kubernetes refuses {method} {path}: {message}"


def _status_line(error: ApiException) -> str:
    """The status line with the reason that the Status gives.

    >>> _status_line(ApiException(503, "Service Unavailable"))
    'HTTP 503 Service Unavailable'
    """
    line, message = f"HTTP {error.status} {error.reason}", message_of(error)
    return line if message == error.reason else f"{line}: {message}"


def reason_of(error: ApiException) -> str:
    """The machine-readable reason of a Status, "" if the answer is no Status."""
    return str(_status(error).get("reason", ""))


def message_of(error: ApiException) -> str:
    """The message of a Status, or the HTTP reason if the answer is no Status."""
    return str(_status(error).get("message") or error.reason)


def _retry_after(error: ApiException) -> float | None:
    """Seconds that the server asks to wait."""
    value = (error.headers or {}).get("Retry-After", "")
    return float(value) if value.isdecimal() and value.isascii() else None


def _status(error: ApiException) -> dict[str, Any]:
    try:
        body = parse_json(error.body or b"{}", "the answer")
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
