"""A client of the Kubernetes API, with the credentials that are there now."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable

from kubernetes import client, config

from components.kube.kubeconfig import load_kubeconfig
from sdpose.errors import UserError

NOTICE_EVERY_S = 60.0


def connect() -> client.ApiClient:
    """In a pod its service account, elsewhere the kubeconfig.

    Raises UserError if there are no credentials, or none that can be read.
    """
    try:
        if os.environ.get("KUBERNETES_SERVICE_HOST") and not os.environ.get("KUBECONFIG"):
            settings = client.Configuration()
            # urllib3's own retries would hide failures, and do not know which are worth it.
            settings.retries = False
            config.load_incluster_config(client_configuration=settings)
        else:
            settings = load_kubeconfig().settings
        return client.ApiClient(settings)
    except UserError as error:
        raise UserError(f"no access to Kubernetes: {error}") from None
    except (config.ConfigException, OSError) as error:
        raise UserError(
            f"no access to Kubernetes: {error}; set $KUBECONFIG, or run in a pod that has a "
            "service account"
        ) from None


class Connection:
    """A client that stays for weeks: its credentials are read again, its outages are said once."""

    def __init__(self, say: Callable[[str], None] = lambda _text: None) -> None:
        """Connects, see `connect`. say: gets a line when the API is waited for."""
        self.client = connect()
        self.has_answered = False
        self._say = say
        self._lock = threading.Lock()
        self._next_notice = 0.0

    def renew(self, used: client.ApiClient) -> None:
        """Reads the credentials again, unless another thread just did. Those that cannot be read
        now are read at the next try."""
        with self._lock:
            if self.client is used:
                with contextlib.suppress(UserError):
                    self.client = connect()

    def notice(self, text: str) -> bool:
        """Says it, unless a thread has said something a moment ago; whether it was said."""
        with self._lock:
            if time.monotonic() < self._next_notice:
                return False
            self._next_notice = time.monotonic() + NOTICE_EVERY_S
        self._say(text)
        return True

    def notice_end(self) -> None:
        with self._lock:
            self._next_notice = 0.0
        self._say("the Kubernetes API answers again")
