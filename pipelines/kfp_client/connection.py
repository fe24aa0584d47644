"""The connection to a Kubeflow Pipelines endpoint: TLS and credentials, which may expire."""

from __future__ import annotations

import os
from pathlib import Path

import kfp_server_api  # type: ignore[import-untyped]
from kubernetes.client.rest import RESTClientObject

from components.kube.kubeconfig import CA_VARIABLE, Kubeconfig, load_kubeconfig
from pipelines.kfp_client.endpoint import Endpoint
from sdpose.errors import UserError

TOKEN_VARIABLE = "KFP_TOKEN"
COOKIE_VARIABLE = "KFP_COOKIE"  # of a browser session, where Dex or a proxy stands before KFP
# Where Kubeflow puts a token for pods that may talk to KFP (a notebook, say); kfp's own names.
TOKEN_FILE_VARIABLE = "KF_PIPELINES_SA_TOKEN_PATH"
TOKEN_FILE = "/var/run/secrets/kubeflow/pipelines/token"
PROXIED_SERVICE = "/api/v1/namespaces/kubeflow/services/ml-pipeline:http/proxy"
# The key under which kfp_server_api keeps the header's value.
HEADER = "authorization"


class Connection:
    """client: of kfp_server_api. credentials: with which it asks, for people."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Raises UserError if the kubeconfig, the CA file or the token cannot be used."""
        self.kubeconfig: Kubeconfig | None = None
        settings = kfp_server_api.Configuration()
        settings.retries = False  # no redirects to a login page, and we decide what is tried again
        if endpoint.by_kubeconfig:
            self._context = endpoint.context
            self.client = kfp_server_api.ApiClient(settings)
            self._use(load_kubeconfig(self._context))
            return
        settings.host = endpoint.url
        settings.ssl_ca_cert = _ca_file()
        settings.api_key_prefix[HEADER] = "Bearer"
        cookie = os.environ.get(COOKIE_VARIABLE)
        if token := os.environ.get(TOKEN_VARIABLE):
            settings.api_key[HEADER] = _one_word(token, f"${TOKEN_VARIABLE}")
            self.credentials = f"${TOKEN_VARIABLE}"
        elif path := _token_file():
            settings.api_key[HEADER] = "read by the hook"
            settings.refresh_api_key_hook = lambda to: to.api_key.update(
                # The kubelet renews it.
                {HEADER: _one_word(Path(path).read_text(encoding="utf-8"), path)}
            )
            self.credentials = f"the token in {path}"
        else:
            self.credentials = f"${COOKIE_VARIABLE}" if cookie else "no credentials"
        self.client = kfp_server_api.ApiClient(settings, cookie=cookie)

    @property
    def authorities(self) -> str:
        """Whom this connection trusts to vouch for the server, for people."""
        used = self.client.configuration.ssl_ca_cert
        if self.kubeconfig is not None and used and used != os.environ.get(CA_VARIABLE):
            return (
                f"the certificate-authority of cluster {self.kubeconfig.cluster!r} in "
                f"{self.kubeconfig.path}"
            )
        return f"${CA_VARIABLE} ({used})" if used else "the public authorities (of certifi)"

    def renew(self) -> bool:
        """Reads the kubeconfig again, whose token or certificate may have been replaced; False
        if there is none. Raises UserError as `load_kubeconfig`."""
        if self.kubeconfig is None:
            return False
        self._use(load_kubeconfig(self._context))
        return True

    def _use(self, kubeconfig: Kubeconfig) -> None:
        """KFP's client never sees the library's own hook: it would set back the host, and with it
        the path of the proxied service."""
        self.kubeconfig = kubeconfig
        self.credentials = f"context {kubeconfig.context!r} of {kubeconfig.path}"
        settings, kubernetes = self.client.configuration, kubeconfig.settings
        settings.host = kubernetes.host.rstrip("/") + PROXIED_SERVICE
        settings.ssl_ca_cert = kubernetes.ssl_ca_cert
        settings.api_key.clear()
        settings.refresh_api_key_hook = None
        if kubeconfig.authorization() is not None:
            settings.api_key[HEADER] = "read by the hook"
            settings.refresh_api_key_hook = lambda to: to.api_key.update(
                {HEADER: kubeconfig.authorization()}
            )
        # With the client certificate, the CA, the server's name in TLS and the HTTP proxy.
        self.client.rest_client.pool_manager = RESTClientObject(kubernetes).pool_manager


def _ca_file() -> str | None:
    path = os.environ.get(CA_VARIABLE)
    if path and not Path(path).is_file():
        raise UserError(
            f"${CA_VARIABLE} is {path}, which is no file: it names the certificates (PEM) of the "
            "authorities to trust; unset it to trust the public ones"
        )
    return path or None


def _one_word(token: str, source: str) -> str:
    """The token without the newline that files end with. (http.client would refuse others, and
    print the token.)"""
    token = token.strip()
    if any(character.isspace() for character in token) or not token.isascii():
        raise UserError(f"{source} is no token: it holds spaces, line breaks or special characters")
    return token


def _token_file() -> str | None:
    path = os.environ.get(TOKEN_FILE_VARIABLE, TOKEN_FILE)
    return path if Path(path).is_file() else None
