"""Credentials of a kubeconfig's context: client certificates, tokens, exec plugins."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from kubernetes import client, config
from kubernetes.config.kube_config import KUBE_CONFIG_DEFAULT_LOCATION, KubeConfigMerger

from sdpose.errors import UserError, did_you_mean

CA_VARIABLE = "SSL_CERT_FILE"
# Cloud tools rewrite a kubeconfig in place: for a moment it is empty, or ends in mid-line.
REWRITE_S = 5.0
PAUSE_S = 0.1


class CredentialError(UserError):
    """The kubeconfig's user gives no credentials: its plugin has failed, or a file is missing."""


class Settings(client.Configuration):
    """The library's, whose token has not expired, or which raises CredentialError."""

    def __init__(self, path: str, context: str) -> None:
        super().__init__()
        self._named = (path, context)

    def get_api_key_with_prefix(self, identifier: str) -> str | None:
        with _plugin_errors(*self._named):
            value = super().get_api_key_with_prefix(identifier)
        # http.client refuses the newline that a token's file ends with, and prints the token.
        return value.strip() if value else None


@dataclass(frozen=True)
class Kubeconfig:
    path: str  # $KUBECONFIG may list several
    context: str
    cluster: str
    settings: Settings

    def authorization(self) -> str | None:
        """The header's value. Raises CredentialError."""
        return self.settings.get_api_key_with_prefix("authorization")


def load_kubeconfig(context: str | None = None) -> Kubeconfig:
    """Reads $KUBECONFIG or ~/.kube/config, and runs the user's credential plugin.

    A file that cannot be used, and that was changed less than REWRITE_S ago, is read again.

    Args:
        context: None for the current one.
    Raises:
        UserError: there is no such file or context, or it cannot be read.
        CredentialError: see there.
    """
    # (The library looks at $KUBECONFIG only once, when it is imported.)
    path = os.environ.get("KUBECONFIG") or KUBE_CONFIG_DEFAULT_LOCATION
    while True:
        try:
            return _load(path, context)
        except CredentialError:
            raise
        except UserError:
            if not _is_being_rewritten(path):
                raise
        time.sleep(PAUSE_S)


def _load(path: str, context: str | None) -> Kubeconfig:
    try:
        merged = KubeConfigMerger(path).config
        if merged is None:
            raise UserError(f"there is no kubeconfig at {path}: set $KUBECONFIG")
        contexts = {each["name"]: each["context"] for each in merged.value["contexts"]}
        name = context or merged.value.get("current-context") or ""
        if name not in contexts:
            raise UserError(_no_context(path, context, name, sorted(contexts)))
        settings = Settings(path, name)
        # urllib3's own retries follow a redirect to a login page, and hide failures.
        settings.retries = False
        with _plugin_errors(path, name):
            config.load_kube_config(config_file=path, context=name, client_configuration=settings)
    except UserError:
        raise
    except (config.ConfigException, OSError, yaml.YAMLError) as error:
        raise UserError(f"the kubeconfig {path} cannot be used: {error}") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # What the library makes of a file that is YAML, but no kubeconfig.
        raise UserError(
            f"the kubeconfig {path} cannot be used: it is malformed ({type(error).__name__}: "
            f"{error})"
        ) from None
    if settings.ssl_ca_cert is None:  # kubectl trusts the system's authorities then
        settings.ssl_ca_cert = os.environ.get(CA_VARIABLE)
    return Kubeconfig(path, name, contexts[name]["cluster"], settings)


def _is_being_rewritten(path: str) -> bool:
    for name in filter(None, path.split(os.pathsep)):
        with contextlib.suppress(OSError):
            if time.time() - Path(name).expanduser().stat().st_mtime < REWRITE_S:
                return True
    return False


def _no_context(path: str, asked: str | None, name: str, known: list[str]) -> str:
    if not asked and not name:
        return (
            f"the kubeconfig {path} has no current context: `kubectl config use-context NAME`, or "
            f"--endpoint kubeconfig:NAME; there are: {', '.join(known) or 'none'}"
        )
    hint = did_you_mean(name, known) if known else "there are none"
    return (
        f"the kubeconfig {path} has no context {name!r}: {hint}\n"
        "  `kubectl config get-contexts` lists them"
    )


@contextlib.contextmanager
def _plugin_errors(path: str, context: str) -> Iterator[None]:
    """Raises CredentialError for what the library only logs: it would go on without credentials,
    and the API would answer "forbidden"."""
    said: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
    if said:
        raise CredentialError(
            f"the credential plugin of context {context!r} ({path}) has failed: "
            f"{'; '.join(said)}\n  it must work by itself first: try `kubectl --context {context} "
            "get --raw /version`, sign in again, or install it"
        )
