"""Single questions to the Kubernetes API, answered or refused at once."""

from __future__ import annotations

import json
import os
from typing import Any

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

Object = dict[str, Any]
TIMEOUT_S = (5.0, 20.0)  # to connect, to answer

IN_CLUSTER_VARIABLE = "KUBERNETES_SERVICE_HOST"


class NoAccessError(Exception):
    """There is no way to the API: no credentials, or nobody answers."""


class RefusedError(Exception):
    """The API does not let us look."""


class Kube:
    def __init__(self) -> None:
        """In a pod its service account, elsewhere the kubeconfig. Raises NoAccessError."""
        settings = client.Configuration()
        settings.retries = False
        try:
            if os.environ.get(IN_CLUSTER_VARIABLE) and not os.environ.get("KUBECONFIG"):
                config.load_incluster_config(client_configuration=settings)
            else:
                config.load_kube_config(client_configuration=settings)
        except (config.ConfigException, OSError) as error:
            raise NoAccessError(f"no access to Kubernetes: {error}") from None
        self._client = client.ApiClient(settings)

    def get(self, path: str) -> Object | None:
        """None if there is no such object. Raises RefusedError, NoAccessError."""
        return self._call("GET", path, None)

    def create(self, path: str, body: Object) -> Object:
        found = self._call("POST", path, body)
        if found is None:
            raise RefusedError(f"this Kubernetes has no {path}")
        return found

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
            if error.status in {401, 403}:
                raise RefusedError(_message(error)) from None
            raise NoAccessError(f"Kubernetes: HTTP {error.status} {error.reason}") from None
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise NoAccessError(f"Kubernetes does not answer: {error}") from None


def _message(error: ApiException) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)
