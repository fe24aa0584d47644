"""The connection to MLflow.

$MLFLOW_TRACKING_URI, else an SQLite file in `work_dirs` below the current folder, with the
artifacts beside it. Everything goes through an explicit client; MLflow's global "active run" is not
used. MLflow is imported when it is first needed (it takes seconds).
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from sdpose.credentials import without_secrets
from sdpose.errors import UserError
from sdpose.tracking import moved_database
from sdpose.tracking.advice import advice, refuse_address


class UnreachableError(UserError):
    """MLflow does not answer, or with an error."""


def tracking_uri() -> str:
    """$MLFLOW_TRACKING_URI, else `work_dirs/mlflow.db` below the current folder."""
    configured = os.environ.get("MLFLOW_TRACKING_URI")
    if configured:
        return configured
    path = str(Path("work_dirs/mlflow.db").absolute())
    return f"sqlite:///{path.replace('%', '%25').replace('?', '%3F')}"  # it is unquoted there


def is_served() -> bool:
    """Whether a server has the runs. Else a database has them, and its pages need `sdpose ui`."""
    return tracking_uri().startswith(("http://", "https://"))


def shown_uri() -> str:
    """The tracking URI without its credentials, for messages."""
    return without_secrets(tracking_uri())


def is_configured() -> bool:
    """Whether there is an MLflow: a configured one, or a local file from a run in this folder."""
    database = sqlite_file(tracking_uri())
    return bool(os.environ.get("MLFLOW_TRACKING_URI")) or bool(database and database.exists())


def connect() -> Any:
    """MLflow's client.

    Raises:
        UserError: MLflow is not installed, its address is invalid, or its database is unusable.
    """
    uri = tracking_uri()
    refuse_address(uri)
    # MLflow and alembic tell the console of every table that they create.
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # its 7 take minutes
    for logger in ("alembic", "mlflow"):
        logging.getLogger(logger).setLevel(logging.WARNING)
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        raise UserError(
            f"MLflow cannot be imported ({error}): install it (pip install mlflow), or remove "
            "MlflowLoggerHook from log_config.hooks"
        ) from None
    database = sqlite_file(uri)
    try:
        if database is not None:
            database.parent.mkdir(parents=True, exist_ok=True)
            moved_database.update_locations(database)
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    except Exception as error:
        raise unreachable(error) from error


@contextlib.contextmanager
def short_timeouts() -> Iterator[None]:
    """MLflow's client sends each request once and waits 10 s, for answers that are optional.

    It sets environment variables of the process, which are MLflow's only way to configure this.
    """
    hurry = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    before = {name: os.environ.get(name) for name in hurry}
    os.environ.update(hurry)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def is_refusal(error: Exception) -> bool:
    """Whether MLflow itself refuses for good: there is no such run, or it was deleted.

    (A proxy answers 404, too, for a server that is down, but not in MLflow's own words.)
    """
    from mlflow.exceptions import MlflowException, RestException

    own_words = RestException if sqlite_file(tracking_uri()) is None else MlflowException
    return isinstance(error, own_words) and error.error_code in {
        "RESOURCE_DOES_NOT_EXIST",
        "INVALID_PARAMETER_VALUE",
        "BAD_REQUEST",
    }


@contextlib.contextmanager
def mlflow_errors() -> Iterator[None]:
    """Turns errors of MLflow and of the network into UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise unreachable(error) from error


def sqlite_file(uri: str) -> Path | None:
    prefix = "sqlite:///"
    return Path(unquote(uri.removeprefix(prefix))) if uri.startswith(prefix) else None


def unreachable(error: Exception) -> UnreachableError:
    """The error for the user: where, what MLflow said, and what to do."""
    if isinstance(error, UnreachableError):
        return error
    said = without_secrets(str(error) or type(error).__name__).splitlines()[0]
    what, remedy = advice(error, tracking_uri())
    return UnreachableError(f"MLflow at {shown_uri()}: {what or said}\n  {remedy}")


def deleted_experiment(name: str, experiment_id: str) -> UnreachableError:
    """MLflow keeps the name of a deleted experiment: no run can be made under it."""
    return UnreachableError(
        f"MLflow at {shown_uri()}: the experiment '{name}' was deleted there\n"
        f"  Restore it: MLFLOW_TRACKING_URI={shown_uri()} mlflow experiments restore "
        f"--experiment-id {experiment_id}\n"
        "  or choose another one: MLFLOW_EXPERIMENT_NAME=NAME"
    )
