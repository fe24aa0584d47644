"""Addresses of MLflow's pages, as of MLflow 3: without the parameters it opens its pages for
language models."""

from __future__ import annotations

from sdpose.tracking.server import is_served, shown_uri

UI_HOST, UI_PORT = "127.0.0.1", 5000  # of `sdpose ui`
TRAINING = "workflowType=machine_learning"


def ui_address(port: int = UI_PORT) -> str:
    """Of the tracking server; for a database, of the one that `sdpose ui` starts."""
    return shown_uri().rstrip("/") if is_served() else f"http://{UI_HOST}:{port}"


def run_link(experiment_id: str, run_id: str) -> str:
    return f"{ui_address()}/#/experiments/{experiment_id}/runs/{run_id}?{TRAINING}"


def comparison_link(experiment_id: str, port: int = UI_PORT) -> str:
    """The curves of all runs of an experiment, side by side."""
    return f"{ui_address(port)}/#/experiments/{experiment_id}/runs?{TRAINING}&compareRunsMode=CHART"
