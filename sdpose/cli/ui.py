"""`sdpose ui`: MLflow's pages of the runs in a local database."""

from __future__ import annotations

import os
import sys

import click

from sdpose.cli.text import echo
from sdpose.errors import UserError
from sdpose.tracking.pages import UI_HOST, UI_PORT


@click.command()
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=UI_PORT,
    show_default=True,
    help=f"Of {UI_HOST}.",
)
def ui(port: int) -> None:
    """Serve MLflow's pages of the runs here, and print the address of their comparison.

    The runs are those of work_dirs/mlflow.db below the current folder, or of the database that
    $MLFLOW_TRACKING_URI names. If it names a server, its address is printed. Ctrl-C ends it.
    """
    from sdpose import tracking

    if tracking.is_served():
        echo(f"runs side by side: {tracking.comparison_page()}")
        return
    if not tracking.is_configured():
        raise UserError(
            "work_dirs/mlflow.db is not here: no run has been tracked in this folder. Change to "
            "the folder that was trained in, or set MLFLOW_TRACKING_URI"
        )
    page = tracking.comparison_page(port)
    echo(f"runs side by side: {page} (in some seconds; Ctrl-C ends it)")
    command = ["-m", "mlflow", "server", "--host", UI_HOST, "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", tracking.tracking_uri()]
    # Its jobs are for judges of language models, and take seconds to start.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *command], environment)
