"""Checks that stores and MLflow can be reached and written, with short timeouts."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator

from sdpose import tracking
from sdpose.checks.report import Report
from sdpose.errors import UserError
from sdpose.storage import Store, open_store

PROBE_FOLDER = "preflight"

# What a run takes for patience, for minutes, would be a command that hangs.
LIMITS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "SDPOSE_S3_TIMEOUT": "10",
    "AWS_MAX_ATTEMPTS": "2",
}


@contextlib.contextmanager
def time_limits() -> Iterator[None]:
    """Inside, a service that does not answer is given up within a minute; what is set stays."""
    added = [name for name in LIMITS if name not in os.environ]
    os.environ.update({name: LIMITS[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def check_writable(uri: str, what: str, report: Report, *, conditional: bool) -> Store | None:
    """The store, if an object could be written, read and removed there; None if not.

    conditional: it must support conditional writes, too.
    """
    key = f"{PROBE_FOLDER}/{uuid.uuid4().hex}"
    try:
        store = open_store(uri)
        store.put(key, b"preflight")
        try:
            readable = store.read(key) == b"preflight"
        finally:
            store.delete(key)
        capabilities = store.capabilities() if conditional else None
    except UserError as error:
        report.error(what, error, "correct its address, its rights or its credentials")
        return None
    if not readable:
        report.problem(f"{what} {uri} does not give back what was written", "look at the store")
    elif capabilities and not capabilities.put_if_absent:
        report.problem(
            f"{what} {uri} knows no conditional writes ({'; '.join(capabilities.reasons)}): two "
            "runs could take the same version number",
            "use a store that honours If-None-Match (AWS S3, MinIO, Ceph)",
        )
    else:
        report.fine.append(f"{what} {uri} can be read and written")
        return store
    return None


def check_tracking(report: Report) -> bool:
    """Whether the MLflow of the environment can be written."""
    try:
        tracking.check_writable()
    except UserError as error:
        report.error("", error)
        return False
    report.fine.append(f"MLflow {tracking.shown_uri()} can be written")
    return True
