"""Single requests to the Kubernetes API, answered or refused at once."""

from __future__ import annotations

import json

import urllib3
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from components.kube.api import Object
from components.kube.connection import connect
from components.kube.errors import message_of
from components.kube.kubeconfig import load_kubeconfig
from sdpose.errors import UserError

TIMEOUT_S = (5.0, 20.0)  # to connect, to answer


class NoAccessError(Exception):
    """There is no way to the API: no credentials, or nobody answers."""


class RefusedError(Exception):
    """The API does not let us look."""


class Kube:
    """Asks once, unlike components.kube.api, which retries for minutes."""

    def __init__(self, context: str | None = None) -> None:
        """Raises NoAccessError. context: of the kubeconfig; None for what `connect` finds."""
        try:
            if context is None:
                self._client = connect()
            else:
                self._client = client.ApiClient(load_kubeconfig(context).settings)
        except UserError as error:
            raise NoAccessError(str(error)) from None

    def get(self, path: str) -> Object | None:
        """None if there is no such object. Raises RefusedError, NoAccessError."""
        return self._call("GET", path, None)

    def create(self, path: str, body: Object) -> Object:
        found = self._call("POST", path, body)
        if found is None:
            raise RefusedError(f"this Kubernetes has no {path}")
        return found

    def delete(self, path: str) -> bool:
        """False if there is no such object. What it owns goes first."""
        return self._call("DELETE", path, {"propagationPolicy": "Foreground"}) is not None

    def _call(self, method: str, path: str, body: Object | None) -> Object | None:
        try:
            response = self._client.call_api(
                path,
                method,
                header_params={"Accept": "application/json", "Content-Type": "application/json"},
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=TIMEOUT_S,
            )
            return dict(json.loads(response.data))
        except ApiException as error:
            if error.status == 404:
                return None
            if error.status == 403:
                raise RefusedError(message_of(error)) from None
            if error.status == 401:
                raise NoAccessError("it does not accept your credentials (HTTP 401)") from None
            raise NoAccessError(f"Kubernetes: HTTP {error.status} {error.reason}") from None
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise NoAccessError(f"Kubernetes does not answer: {error}") from None
