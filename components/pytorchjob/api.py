"""The Kubernetes API as plain dicts, through everything that it does to a client that stays for
weeks: time-outs, cut connections, 429, 5xx, tokens that expire.

kfp pins kubernetes < 31, whose models know neither PyTorchJob nor today's pods: paths and dicts.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from sdpose.errors import UserError

Object = dict[str, Any]
T = TypeVar("T")

# A control plane that is upgraded is away for minutes; a training of weeks must not end of it.
RETRY_BUDGET_S = 900.0
# A token that was replaced is on disk within a minute (the kubelet's sync period).
UNAUTHORIZED_BUDGET_S = 90.0
FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 30.0
CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 60.0

RETRIED = {408, 425, 429, 500, 502, 503, 504}


class ApiUnavailableError(Exception):
    """The API did not answer for the whole retry budget. (The job goes on without us.)"""


class UnauthorizedError(UserError):
    """Our credentials are not accepted. (The job goes on without us.)"""


@dataclass(frozen=True)
class Resource:
    """One kind of object, as paths and RBAC name it."""

    group: str  # "" for the core
    version: str
    plural: str

    def path(self, namespace: str, name: str = "", subresource: str = "") -> str:
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = [root, "namespaces", namespace, self.plural, name, subresource]
        return "/".join(part for part in parts if part)


PODS = Resource("", "v1", "pods")
EVENTS = Resource("", "v1", "events")
# Kueue 0.15 brought v1beta2; 0.20 serves v1beta1 no more.
WORKLOADS = Resource("kueue.x-k8s.io", "v1beta2", "workloads")
LOCAL_QUEUES = Resource("kueue.x-k8s.io", "v1beta2", "localqueues")


class Api:
    """One namespace of one cluster. Safe to use from several threads."""

    def __init__(self, namespace: str) -> None:
        """Connects, see `connect`."""
        self.namespace = namespace
        self._lock = threading.Lock()
        self._client = connect()

    def get(self, resource: Resource, name: str) -> Object | None:
        """None if there is no such object."""
        return self._json("GET", resource.path(self.namespace, name), missing_is_none=True)

    def list(self, resource: Resource, **query: str) -> Object:
        """The whole List; query: labelSelector, fieldSelector, ..."""
        found = self._json("GET", resource.path(self.namespace), query)
        assert found is not None
        return found

    def create(self, resource: Resource, body: Object) -> Object | None:
        """None if an object of that name exists. (Also if a first try, whose answer was lost, made
        it: look at it.)"""
        query = {"fieldValidation": "Strict"}
        return self._json(
            "POST", resource.path(self.namespace), query, body, none_if=("AlreadyExists",)
        )

    def annotate(self, resource: Resource, name: str, annotations: Mapping[str, str]) -> None:
        self.patch(resource, name, {"metadata": {"annotations": dict(annotations)}})

    def patch(self, resource: Resource, name: str, change: Object) -> None:
        """Merges a change into an object; fine if it is gone."""
        self._json("PATCH", resource.path(self.namespace, name), body=change, missing_is_none=True)

    def document(self, path: str) -> Object | None:
        """What is at a path of the API; None if there is nothing, or it is not for us to read."""
        return self.look(path)[0]

    def look(self, path: str) -> tuple[Object | None, bool]:
        """What is at a path of the API, None if there is nothing; and whether we may read it."""

        def once() -> Any:
            with self._call("GET", path, {}, None, READ_TIMEOUT_S) as response:
                return json.loads(response.data)

        try:
            return self._retried(once), True
        except ApiException as error:
            if error.status in {403, 404}:
                return None, error.status == 404
            raise UserError(_explain(error, "GET", path)) from None

    def delete(self, resource: Resource, name: str, uid: str) -> None:
        """Deletes this very object, after what it owns (foreground); fine if it is gone."""
        self._json(
            "DELETE",
            resource.path(self.namespace, name),
            body={"propagationPolicy": "Foreground", "preconditions": {"uid": uid}},
            missing_is_none=True,
            none_if=("Conflict",),  # another object of that name by now
        )

    def open(
        self,
        resource: Resource,
        query: Mapping[str, str],
        *,
        name: str = "",
        log: bool = False,
        read_timeout: float,
    ) -> urllib3.HTTPResponse:
        """An answer that is read while it comes: a watch, or a pod's log. Close it.

        Reading raises urllib3's HTTPError when the connection is cut or silent for `read_timeout`.
        Raises ApiException for what retrying does not mend (404, 410).
        """
        path = resource.path(self.namespace, name, "log" if log else "")
        return self._retried(lambda: self._call("GET", path, query, None, read_timeout))

    def _json(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        *,
        missing_is_none: bool = False,
        none_if: tuple[str, ...] = (),
    ) -> Object | None:
        def once() -> Any:
            with self._call(method, path, query or {}, body, READ_TIMEOUT_S) as response:
                return json.loads(response.data)

        try:
            return self._retried(once)
        except ApiException as error:
            reason = reason_of(error)
            if (missing_is_none and error.status == 404 and reason == "NotFound") or (
                reason in none_if
            ):
                return None
            raise UserError(_explain(error, method, path)) from None

    def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Object | None,
        read_timeout: float,
    ) -> urllib3.HTTPResponse:
        headers = {"Accept": "application/json"}
        if body is not None:
            merge = method == "PATCH"
            headers["Content-Type"] = f"application/{'merge-patch+' if merge else ''}json"
        return self._client.call_api(
            path,
            method,
            query_params=list(query.items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _return_http_data_only=True,
            _request_timeout=(CONNECT_TIMEOUT_S, read_timeout),
        )

    def _retried(self, call: Callable[[], T]) -> T:
        """Calls until it succeeds or the budget is spent. All calls may be repeated: a creation
        names its object, so a second one finds the first."""
        since: dict[float, float] = {}  # by budget; servers that come back answer 401 for a while
        delay = FIRST_DELAY_S
        while True:
            used = self._client
            try:
                return call()
            except ApiException as error:
                status, why = error.status, f"HTTP {error.status} {error.reason}"
                if status != 401 and status not in RETRIED:
                    raise
                asked = _retry_after(error)
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                status, why, asked = None, f"{type(error).__name__}: {error}", None
            now = time.monotonic()
            budget = UNAUTHORIZED_BUDGET_S if status == 401 else RETRY_BUDGET_S
            if status == 401:
                self._reconnect(used)
            wait = asked if asked is not None else delay * random.uniform(0.5, 1.0)
            if now + wait - since.setdefault(budget, now) > budget:
                if status == 401:
                    raise UnauthorizedError(
                        "Kubernetes does not accept our credentials (HTTP 401); sign in again, or "
                        "look at the service account's token"
                    )
                raise ApiUnavailableError(
                    f"the Kubernetes API has not answered for {budget:.0f} s: {why}"
                )
            time.sleep(wait)
            delay = min(2 * delay, LONGEST_DELAY_S)

    def _reconnect(self, used: client.ApiClient) -> None:
        """Reads the credentials again, unless another thread just did."""
        with self._lock:
            if self._client is used:
                self._client = connect()


def connect() -> client.ApiClient:
    """In a pod its service account, elsewhere the kubeconfig; UserError if there is neither."""
    settings = client.Configuration()
    # urllib3's own retries would hide failures, and do not know which are worth it.
    settings.retries = False
    try:
        if os.environ.get("KUBERNETES_SERVICE_HOST") and not os.environ.get("KUBECONFIG"):
            config.load_incluster_config(client_configuration=settings)
        else:
            # (The library looks at $KUBECONFIG only once, when it is imported.)
            config.load_kube_config(
                config_file=os.environ.get("KUBECONFIG"), client_configuration=settings
            )
    except (config.ConfigException, OSError) as error:
        raise UserError(
            f"no access to Kubernetes: {error}; set $KUBECONFIG, or run in a pod that has a "
            "service account"
        ) from None
    return client.ApiClient(settings)


def lines(response: urllib3.HTTPResponse, *, unfinished: bool = False) -> Iterator[bytes]:
    """Whole lines as they come, without their newline; `unfinished`: also what follows the last.

    Raises urllib3's HTTPError when the connection is cut, after the lines that were whole.
    """
    rest = b""
    for chunk in response.stream(amt=None):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    if rest and unfinished:
        yield rest


def reason_of(error: ApiException) -> str:
    """The machine-readable reason of a Status, "" if the answer is no Status."""
    return str(_status(error).get("reason", ""))


def _status(error: ApiException) -> Object:
    try:
        body = json.loads(error.body or b"{}")
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _retry_after(error: ApiException) -> float | None:
    value = (error.headers or {}).get("Retry-After", "")
    return float(value) if value.isdigit() else None


def _explain(error: ApiException, method: str, path: str) -> str:
    message = _status(error).get("message") or error.reason
    if error.status == 403:
        return (
            f"Kubernetes forbids it: {message}; the launcher's Role is in k8s/ "
            "(`python pipelines/submit.py --check` lists what is missing)"
        )
    if error.status == 404 and reason_of(error) != "NotFound":
        plural = path.partition("/namespaces/")[2].split("/")[1]
        return (
            f"this cluster knows no {plural}: install their operator, or choose another train_api "
            "(pytorchjob, trainjob)"
        )
    return f"Kubernetes refuses {method} {path}: {message}"
