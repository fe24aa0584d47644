"""A client of the Kubernetes API, with the credentials that are there now."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from kubernetes import client, config

from sdpose.errors import UserError

# Cloud tools rewrite a kubeconfig in place: for a moment it is empty, or ends in mid-line.
REWRITE_S = 5.0
PAUSE_S = 0.1
NOTICE_EVERY_S = 60.0

# What the library raises for a kubeconfig of which a part is missing: it does not check first.
UNREADABLE = (
    config.ConfigException,
    OSError,
    yaml.YAMLError,
    LookupError,
    TypeError,
    AttributeError,
)


def connect() -> client.ApiClient:
    """In a pod its service account, elsewhere the kubeconfig.

    A kubeconfig that cannot be read, and that was changed less than REWRITE_S ago, is read again.
    Raises UserError if there are no credentials, or none that can be read.
    """
    while True:
        settings = client.Configuration()
        # urllib3's own retries would hide failures, and do not know which are worth it.
        settings.retries = False
        try:
            _load(settings)
            return client.ApiClient(settings)
        except UNREADABLE as error:
            if not _is_being_rewritten():
                raise UserError(
                    f"no access to Kubernetes: {error}; set $KUBECONFIG, or run in a pod that has "
                    "a service account"
                ) from None
        time.sleep(PAUSE_S)


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


def _load(settings: client.Configuration) -> None:
    if _in_cluster():
        config.load_incluster_config(client_configuration=settings)
    else:
        # (The library looks at $KUBECONFIG only once, when it is imported.)
        config.load_kube_config(
            config_file=os.environ.get("KUBECONFIG"), client_configuration=settings
        )


def _in_cluster() -> bool:
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST") and not os.environ.get("KUBECONFIG"))


def _is_being_rewritten() -> bool:
    if _in_cluster():
        return False
    names = os.environ.get("KUBECONFIG") or config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION
    for name in filter(None, names.split(os.pathsep)):
        try:
            changed = Path(name).expanduser().stat().st_mtime
        except OSError:
            continue
        if time.time() - changed < REWRITE_S:
            return True
    return False
