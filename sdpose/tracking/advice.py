"""What to do about an error of MLflow, by its kind."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sdpose.credentials import invalid_header, without_secrets
from sdpose.errors import UserError

OR_WITHOUT = "or train without MLflow: remove MlflowLoggerHook from log_config.hooks"
_HOST_AND_PORT = re.compile(r"(\[[0-9a-fA-F:]+\]|[\w.-]+):\d+(/.*)?")
_DATABASES = ("sqlite:", "postgresql", "mysql", "mssql")


def refuse_address(uri: str) -> None:
    """Raises UserError for a server's address without its scheme, which MLflow takes for a folder.

    >>> refuse_address("sqlite:///mlflow.db")
    """
    if _HOST_AND_PORT.fullmatch(uri):
        raise UserError(
            f"MLFLOW_TRACKING_URI is '{uri}': the address of a server starts with http:// or "
            f"https://; did you mean http://{uri}?"
        )


def advice(error: Exception, uri: str) -> tuple[str, str]:
    """Explains an error of MLflow.

    Args:
        error: as MLflow raised it; its causes are searched, too.
        uri: of the tracking server or database.
    Returns:
        What happened ("" if MLflow's own message says it), and what to do.
    """
    shown = without_secrets(uri)
    chain = list(_causes(error))
    said = "\n".join(str(each) for each in chain)
    if refused := invalid_header(error):
        return refused, f"Set it without them, {OR_WITHOUT}."
    if missing := next((e for e in chain if isinstance(e, ModuleNotFoundError)), None):
        return (
            f"the database's driver is not installed ({missing})",
            "Install it (PostgreSQL: pip install 'psycopg[binary]>=3.3,<4'), or set "
            "MLFLOW_TRACKING_URI to an MLflow server, which needs no driver here.",
        )
    if "database is locked" in said:
        return (
            "the database is locked: another process writes to it",
            "Wait for that process or end it. Where several runs write at once, start a server "
            f"(mlflow server --backend-store-uri {shown}) and set MLFLOW_TRACKING_URI to its "
            "address.",
        )
    if "out-of-date database schema" in said:
        from mlflow.version import VERSION

        return (
            f"the database was made by another MLflow than this one ({VERSION})",
            "By an older one: back the database up, then run "
            f"`mlflow db upgrade {shown}`. By a newer one: install that MLflow here.",
        )
    if "not a database" in said:
        return (
            "the file is no SQLite database",
            "Set MLFLOW_TRACKING_URI to another file, or move this one away.",
        )
    if "://" not in uri or uri.startswith("file:"):
        return (
            "MLflow does not write runs to folders any more",
            "Set MLFLOW_TRACKING_URI to sqlite:///FILE.db or to a server; `mlflow "
            "migrate-filestore` copies what the folder holds.",
        )
    if found := re.search(r"error code (401|403)", said):
        return (
            "",
            f"HTTP {found[1]}: check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
            "MLFLOW_TRACKING_TOKEN, and the rights of that user.",
        )
    if uri.startswith(_DATABASES):
        return "", f"Set MLFLOW_TRACKING_URI to a database that can be written, {OR_WITHOUT}."
    return (
        "",
        "Set MLFLOW_TRACKING_URI to a server that answers, unset it for a local file, "
        f"{OR_WITHOUT}.",
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
