"""The connection to a Kubeflow Pipelines endpoint: TLS and credentials, which may expire."""

from __future__ import annotations

import os
from pathlib import Path

import certifi
import urllib3
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


class Connection:
    """Where requests go (`host`, `pool`), and with what `credentials`, in words for people."""

    kubeconfig: Kubeconfig | None = None
    _token = ""
    _token_file = ""
    _cookie = ""

    def __init__(self, endpoint: Endpoint) -> None:
        """Raises UserError if the kubeconfig, the CA file or the token cannot be used."""
        self._context = endpoint.context
        if endpoint.by_kubeconfig:
            self._use(load_kubeconfig(self._context))
            return
        self.host, self._ca_file = endpoint.url, _ca_file()
        self.pool = urllib3.PoolManager(
            cert_reqs="CERT_REQUIRED", ca_certs=self._ca_file or certifi.where()
        )
        self._cookie = os.environ.get(COOKIE_VARIABLE, "")
        token_file = os.environ.get(TOKEN_FILE_VARIABLE, TOKEN_FILE)
        if token := os.environ.get(TOKEN_VARIABLE):
            self._token = _one_word(token, f"${TOKEN_VARIABLE}")
            self.credentials = f"${TOKEN_VARIABLE}"
        elif Path(token_file).is_file():
            self._token_file = token_file
            self.credentials = f"the token in {token_file}"
        else:
            self.credentials = f"${COOKIE_VARIABLE}" if self._cookie else "no credentials"

    def headers(self) -> dict[str, str]:
        """Of a request. Raises UserError or OSError if the credentials cannot be read now."""
        token = self._token
        if self._token_file:  # the kubelet renews it
            token = _one_word(Path(self._token_file).read_text(encoding="utf-8"), self._token_file)
        authorization = f"Bearer {token}" if token else ""
        if self.kubeconfig is not None:
            authorization = self.kubeconfig.authorization() or ""
        found = {"Accept": "application/json", "Authorization": authorization}
        return {key: value for key, value in (found | {"Cookie": self._cookie}).items() if value}

    @property
    def authorities(self) -> str:
        """Whom this connection trusts to vouch for the server, for people."""
        used = self._ca_file
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
        self.kubeconfig = kubeconfig
        self.credentials = f"context {kubeconfig.context!r} of {kubeconfig.path}"
        self.host = kubeconfig.settings.host.rstrip("/") + PROXIED_SERVICE
        self._ca_file = kubeconfig.settings.ssl_ca_cert
        # With the client certificate, the CA, the server's name in TLS and the HTTP proxy.
        self.pool = RESTClientObject(kubeconfig.settings).pool_manager


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
