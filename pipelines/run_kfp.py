"""Runs the pipeline on a Kubeflow Pipelines endpoint.

Training runs inside the step's own pod, on the GPUs that are asked for: on one node. (Several nodes
need a PyTorchJob.)
"""

from __future__ import annotations

import contextlib
import io
import os
import time
import warnings
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import kfp
import kfp_server_api  # type: ignore[import-untyped]
from kfp.client import ServiceAccountTokenVolumeCredentials

from pipelines.endpoint import TOKEN_VARIABLE, Endpoint, token_file
from sdpose.errors import UserError

POLL_S = 5.0
FINAL_STATES = {"SUCCEEDED", "FAILED", "SKIPPED", "CANCELED", "ERROR"}

Say = Callable[..., None]


def run_kfp(
    endpoint: Endpoint,
    package: Path,
    arguments: dict[str, Any],
    *,
    exp_name: str,
    namespace: str | None,
    wait: bool,
    say: Say,
) -> bool:
    """Starts a run of the compiled pipeline; with `wait`, returns whether it succeeded.

    The runs of an experiment are grouped under its name. Ending this process does not end the run.
    say: prints one line for people; takes `fg` as click.style does.
    Raises UserError if the endpoint refuses the run.
    """
    path = token_file()
    try:
        # The client prints links of its own, and warns of things that are as they should be.
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            client = kfp.Client(
                host=endpoint.url,
                existing_token=os.environ.get(TOKEN_VARIABLE),
                credentials=ServiceAccountTokenVolumeCredentials(path) if path else None,
            )
            experiment = client.create_experiment(exp_name, namespace=namespace)
            run = client.run_pipeline(
                experiment_id=experiment.experiment_id,
                job_name=f"{exp_name} {datetime.now():%Y-%m-%d %H:%M:%S}",
                pipeline_package_path=str(package),
                params=arguments,
            )
    except kfp_server_api.ApiException as error:
        raise UserError(f"{endpoint.host} refuses the run: {error.reason}: {error.body}") from None
    say(f"run: {endpoint.url}/#/runs/details/{run.run_id}")
    if not wait:
        return True
    try:
        state = _wait(client, run.run_id, say)
    except KeyboardInterrupt:
        say("no longer waiting; the run goes on (its page can terminate it)")
        raise
    say(f"run {state}", fg="green" if state == "SUCCEEDED" else "red")
    return state == "SUCCEEDED"


def _wait(client: kfp.Client, run_id: str, say: Say) -> str:
    """The run's final state. (kfp's own wait never ends for a run that was canceled.)"""
    shown = ""
    while True:
        state = str(client.get_run(run_id).state or "PENDING").upper()
        if state in FINAL_STATES:
            return state
        if state != shown:
            say(f"run {state}")
            shown = state
        time.sleep(POLL_S)
