"""A client of the Kubernetes API, with the credentials that are there now."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time

from kubernetes import client, config

from components.kube.kubeconfig import load_kubeconfig
from sdpose.errors import UserError

logger = logging.getLogger(__name__)

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
    """A client that lives for weeks: it reads credentials again, and logs an outage once."""

    def __init__(self) -> None:
        self.client = connect()
        self.has_answered = False
        self._lock = threading.Lock()
        self._next_notice = 0.0

    def renew(self, used: client.ApiClient) -> None:
        """Reads the credentials again, unless another thread just did. Those that cannot be read
        now are read at the next try."""
        with self._lock:
            if self.client is used:
                with contextlib.suppress(UserError):
                    self.client = connect()

    def log_outage(self, text: str) -> bool:
        """Logs it, unless a thread has logged something a moment ago; whether it was logged."""
        with self._lock:
            if time.monotonic() < self._next_notice:
                return False
            self._next_notice = time.monotonic() + NOTICE_EVERY_S
        logger.warning(text)
        return True

    def log_recovery(self) -> None:
        with self._lock:
            self._next_notice = 0.0
        logger.info("the Kubernetes API answers again")
