"""The Kubernetes API as plain dicts, through everything that it does to a client that stays for
weeks: timeouts, cut connections, 429, 5xx, restarts, tokens that expire.

kfp pins kubernetes < 31, whose models know neither PyTorchJob nor today's pods: paths and dicts.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import urllib3
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException

from components.kube.connection import Connection
from components.kube.errors import (
    ApiError,
    ApiRefusedError,
    ApiUnavailableError,
    RequestFailure,
    classify_failure,
    reason_of,
)

Object = dict[str, Any]
T = TypeVar("T")

# A control plane that is upgraded is away for minutes; a training of weeks must not end because of
# it.
RETRY_BUDGET_S = 900.0
# A token that was replaced is on disk within a minute (the kubelet's sync period).
REFUSAL_BUDGET_S = 90.0
BRIEF_BUDGET_S = 10.0
NOTICE_AFTER_S = 10.0
FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 30.0
CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 60.0

# ValueError: an answer that is not what was asked for, as a proxy's page.
NETWORK_ERRORS = (urllib3.exceptions.HTTPError, OSError, ValueError)


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
    """One namespace of one cluster. Safe to use from several threads.

    All methods raise ApiRefusedError or ApiUnavailableError.
    """

    def __init__(
        self,
        namespace: str,
        connection: Connection,
        *,
        budget_s: float = float("inf"),
        stop: threading.Event | None = None,
    ) -> None:
        """
        Args:
            budget_s: no request is tried for longer, whatever the answer.
            stop: once it is set, what fails is neither tried again nor logged.
        """
        self.namespace = namespace
        self._connection, self._budget_s = connection, budget_s
        self._stop = threading.Event() if stop is None else stop

    def brief(self) -> Api:
        """The same API, for what nothing depends on: it is asked for BRIEF_BUDGET_S at most."""
        return Api(self.namespace, self._connection, budget_s=BRIEF_BUDGET_S, stop=self._stop)

    def until(self, stop: threading.Event) -> Api:
        """The same API for a thread that ends with `stop`, also in the middle of an outage."""
        return Api(self.namespace, self._connection, budget_s=self._budget_s, stop=stop)

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
            "POST", resource.path(self.namespace), query, body, none_if="AlreadyExists"
        )

    def annotate(self, resource: Resource, item: Object, annotations: Mapping[str, str]) -> None:
        """Of this very object: the server refuses the uid of another one of that name."""
        meta = {"uid": item["metadata"]["uid"], "annotations": dict(annotations)}
        self.patch(resource, item["metadata"]["name"], {"metadata": meta})

    def patch(self, resource: Resource, name: str, change: Object) -> None:
        """Merges a change into an object; fine if it is gone."""
        self._json("PATCH", resource.path(self.namespace, name), body=change, missing_is_none=True)

    def look(self, path: str, *, public: bool = False) -> tuple[Object | None, bool]:
        """What is at a path of the API, None if there is nothing; and whether we may read it.

        public: every account may read it: a 403 is that of a server that has just started.
        """
        final = {404} if public else {403, 404}

        def once() -> Object:
            with self._call("GET", path, {}, None, READ_TIMEOUT_S) as response:
                return dict(json.loads(response.data))

        try:
            return self._retried("GET", path, once, lambda error: error.status in final), True
        except ApiRefusedError as error:
            if error.status not in {403, 404}:
                raise
            return None, error.status == 404

    def delete(self, resource: Resource, name: str, uid: str) -> None:
        """Asks for the deletion of this very object, after what it owns (foreground); fine if it is
        gone.

        A conflict is either another object of that name or a change on its way to the store: a
        caller looks again, and asks again while the object has no deletionTimestamp.
        """
        self._json(
            "DELETE",
            resource.path(self.namespace, name),
            body={"propagationPolicy": "Foreground", "preconditions": {"uid": uid}},
            missing_is_none=True,
            none_if="Conflict",
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
        """
        path = resource.path(self.namespace, name, "log" if log else "")

        def is_answer(error: ApiException) -> bool:
            """The container has no log yet, or its pod is gone; or the version is forgotten."""
            if log:
                return error.status == 400 or reason_of(error) == "NotFound"
            return error.status == 410

        return self._retried(
            "GET", path, lambda: self._call("GET", path, query, None, read_timeout), is_answer
        )

    def _json(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        *,
        missing_is_none: bool = False,
        none_if: str = "",
    ) -> Object | None:
        def is_none(error: ApiException) -> bool:
            reason = reason_of(error)
            return (missing_is_none and error.status == 404 and reason == "NotFound") or (
                error.status == 409 and reason == none_if
            )

        def once() -> Object | None:
            try:
                with self._call(method, path, query or {}, body, READ_TIMEOUT_S) as response:
                    answer = json.loads(response.data)
            except ApiException as error:
                if is_none(error):
                    return None
                raise
            if not isinstance(answer, dict) or "metadata" not in answer:
                raise ValueError("the answer is no object of Kubernetes")
            return answer

        # DELETE answers with the object or a Status; both have metadata.
        return self._retried(method, path, once)

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
        return self._connection.client.call_api(
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

    def _retried(
        self,
        method: str,
        path: str,
        call: Callable[[], T],
        is_answer: Callable[[ApiException], bool] = lambda _error: False,
    ) -> T:
        """Calls until it succeeds or the budget is spent. All calls may be repeated: a creation
        names its object, so a second one finds the first.

        Not by `sdpose.retry`: an outage and a refusal have budgets of their own in one loop, the
        server may say how long to wait, and a 401 renews the credentials. As callbacks of tenacity
        this is twice as long.

        is_answer: refusals that are not tried again.
        """
        connection = self._connection
        since: dict[str, float] = {}  # by budget; a server that comes back refuses for a while
        started, delay, noticed = time.monotonic(), FIRST_DELAY_S, False
        while True:
            used = connection.client
            try:
                result = call()
            except (ApiException, ConfigException, *NETWORK_ERRORS) as error:
                failure = classify_failure(error, method, path, known=connection.has_answered)
                final = isinstance(error, ApiException) and is_answer(error)
            else:
                connection.has_answered = True
                if noticed:
                    connection.log_recovery()
                return result
            if final or failure.budget == "none":
                raise ApiRefusedError(failure.refusal, failure.status)
            if failure.status == 401:
                connection.renew(used)
            if self._stop.is_set():
                raise _given_up(failure, time.monotonic() - started)
            now = time.monotonic()
            budget = RETRY_BUDGET_S if failure.budget == "outage" else REFUSAL_BUDGET_S
            budget = min(budget, self._budget_s)
            wait = delay * random.uniform(0.5, 1.0) if failure.wait_s is None else failure.wait_s
            if now + wait - since.setdefault(failure.budget, now) > budget:
                raise _given_up(failure, budget)
            if now + wait - started >= NOTICE_AFTER_S:
                noticed |= connection.log_outage(
                    f"waiting for the Kubernetes API: {failure.why} (for at most {budget:.0f} s)"
                )
            self._stop.wait(wait)
            delay = min(2 * delay, LONGEST_DELAY_S)


def _given_up(failure: RequestFailure, budget: float) -> ApiError:
    if failure.budget == "refusal":
        return ApiRefusedError(failure.refusal, failure.status)
    what = "has answered with errors" if failure.status else "has not answered"
    return ApiUnavailableError(
        f"the Kubernetes API {what} for {budget:.0f} s: {failure.why}", failure.status
    )


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
