"""Links to MLflow's pages. Without these parameters MLflow 3 opens those for language models."""

from __future__ import annotations

from dataclasses import dataclass

from sdpose.errors import UserError
from sdpose.tracking.runs import experiment_name
from sdpose.tracking.server import connect, is_served, mlflow_errors, short_timeouts, shown_uri

UI_HOST, UI_PORT = "127.0.0.1", 5000  # of `sdpose ui`
TRAINING = "workflowType=machine_learning"


@dataclass(frozen=True)
class Links:
    """MLflow's pages of a run: its own, and that of all runs side by side."""

    run: str
    comparison: str


def ui_address(port: int = UI_PORT) -> str:
    """The address of the tracking server; for a database, of the one that `sdpose ui` starts."""
    return shown_uri().rstrip("/") if is_served() else f"http://{UI_HOST}:{port}"


def run_link(experiment_id: str, run_id: str) -> str:
    return f"{ui_address()}/#/experiments/{experiment_id}/runs/{run_id}?{TRAINING}"


def comparison_link(experiment_id: str, port: int = UI_PORT) -> str:
    """The curves of all runs of an experiment, side by side."""
    return f"{ui_address(port)}/#/experiments/{experiment_id}/runs?{TRAINING}&compareRunsMode=CHART"


def links_of(run_id: str) -> Links | None:
    """The pages of a run; None if MLflow does not know it, or does not answer."""
    try:
        with short_timeouts(), mlflow_errors():
            experiment_id = str(connect().get_run(run_id).info.experiment_id)
    except UserError:
        return None
    return Links(run_link(experiment_id, run_id), comparison_link(experiment_id))


def pages_of(run_id: str | None) -> dict[str, str]:
    """MLflow's pages of a run by title, and the command that starts MLflow if none runs."""
    links = links_of(run_id) if run_id else None
    if links is None:
        return {"MLflow run": run_id or "none (log_config.hooks)"}
    start = {} if is_served() else {"MLflow": "sdpose ui (or make ui), then"}
    return {**start, "  this run": links.run, "  compared": links.comparison}


def comparison_page(port: int = UI_PORT) -> str:
    """MLflow's page with all our runs side by side; its first page if there are none.

    Args:
        port: of `sdpose ui`, used if there is no server.
    """
    client = connect()
    with mlflow_errors():
        experiment = client.get_experiment_by_name(experiment_name())
    if experiment is None:
        return ui_address(port)
    return comparison_link(str(experiment.experiment_id), port)
