"""Runs of MLflow: started, continued, tagged and found."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sdpose.code_version import git_commit
from sdpose.tracking.moved_database import artifacts_beside
from sdpose.tracking.server import (
    connect,
    deleted_experiment,
    is_refusal,
    mlflow_errors,
    sqlite_file,
    tracking_uri,
    unreachable,
)

EXPERIMENT_VARIABLE = "MLFLOW_EXPERIMENT_NAME"  # MLflow's own
DEFAULT_EXPERIMENT = "sdpose"
PARENT_RUN_VARIABLE = "SDPOSE_MLFLOW_PARENT_RUN"  # of a sweep; its trials' runs are nested in it
SWEEP_TAG = "sdpose.sweep"
# MLflow opens its pages for language models otherwise.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

# MLflow refuses longer values, and more of them in one call.
MAX_PARAM_LENGTH = 6000
MAX_BATCH = 100
MAX_DESCRIPTION = 5000
MAX_DIGEST = 36  # of a dataset


@dataclass(frozen=True)
class Dataset:
    """The training data of a run, for MLflow's column."""

    folder: str
    digest: str


class TrackedRun:
    """One MLflow run; `start_run` makes it."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client = client
        self.run_id = run_id

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Logs values as text. MLflow accepts a value again, but no other one."""
        from mlflow.entities import Param

        entities = [Param(key, str(value)[:MAX_PARAM_LENGTH]) for key, value in params.items()]
        for start in range(0, len(entities), MAX_BATCH):
            self._client.log_batch(self.run_id, params=entities[start : start + MAX_BATCH])

    def log_dataset(self, dataset: Dataset) -> None:
        from mlflow.entities import Dataset as MlflowDataset
        from mlflow.entities import DatasetInput, InputTag

        folder = Path(dataset.folder)
        entity = MlflowDataset(
            name=folder.name or str(folder),
            digest=dataset.digest[:MAX_DIGEST],
            source_type="local",
            source=json.dumps({"uri": str(folder.absolute())}),
        )
        context = [InputTag("mlflow.data.context", "training")]
        self._client.log_inputs(self.run_id, [DatasetInput(entity, context)])

    def log_metrics(self, metrics: Mapping[str, float], step: int, now: int | None = None) -> None:
        """Logs metrics of one step.

        Args:
            now: time of the measurement, milliseconds since 1970; default: now.
        """
        from mlflow.entities import Metric

        now = now or int(time.time() * 1000)
        self._client.log_batch(
            self.run_id, metrics=[Metric(key, value, now, step) for key, value in metrics.items()]
        )

    def last_step(self, metric: str) -> int:
        """The last step of a metric; -1 if it was never logged."""
        history = self._client.get_metric_history(self.run_id, metric)
        return max((point.step for point in history), default=-1)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(self.run_id, tags=[RunTag(k, v) for k, v in tags.items()])

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        self._client.log_artifact(self.run_id, str(path), folder)

    def end(self, status: RunStatus, now: int | None = None) -> None:
        self._client.set_terminated(self.run_id, status, now)


def start_run(
    name: str,
    *,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    source: str = "sdpose",
    description: str = "",
    dataset: Dataset | None = None,
    run_id: str | None = None,
) -> TrackedRun:
    """Starts a run in our MLflow experiment, or continues the run `run_id`.

    If that run is not there (another server, a deleted run or database), a new one is started.

    Args:
        source: the program that started it.
        description: Markdown.
    Raises:
        UserError: MLflow is not installed.
        UnreachableError: it cannot be reached.
    """
    client = connect()
    try:
        if run_id is not None:
            try:
                client.update_run(run_id, status="RUNNING")
                return TrackedRun(client, run_id)
            except Exception as error:
                if not is_refusal(error):
                    raise
        tags = {**tags, **_origin_tags(source), **_parent_tags()}
        if description:
            tags["mlflow.note.content"] = description[:MAX_DESCRIPTION]
        run = client.create_run(_experiment_id(client), run_name=name, tags=tags)
        tracked = TrackedRun(client, run.info.run_id)
        tracked.log_params(params)
        if dataset is not None:
            tracked.log_dataset(dataset)
    except Exception as error:
        raise unreachable(error) from error
    return tracked


def sweep_run(sweep: str) -> str:
    """The id of the run in which the trials of a sweep are nested; started if there is none."""
    client = connect()
    with mlflow_errors():
        experiment_id = _experiment_id(client)
        found = client.search_runs(
            [experiment_id], f"tags.`{SWEEP_TAG}` = '{sweep}'", max_results=1
        )
        if found:
            client.update_run(found[0].info.run_id, status="RUNNING")
            return str(found[0].info.run_id)
        source = f"pipelines/submit.py --sweep {sweep}"
        tags = {SWEEP_TAG: sweep, **_origin_tags(source)}
        return str(client.create_run(experiment_id, run_name=sweep, tags=tags).info.run_id)


def close_sweep_run(run_id: str, files: Mapping[Path, str], metrics: Mapping[str, float]) -> None:
    """Ends a sweep's run with its results.

    Args:
        files: by path, the name that MLflow shows.
    """
    client = connect()
    with mlflow_errors():
        for path, name in files.items():
            client.log_text(run_id, path.read_text(encoding="utf-8"), name)
        for key, value in metrics.items():
            client.log_metric(run_id, key, value)
        client.set_terminated(run_id, "FINISHED")


def check_writable() -> None:
    """Raises UserError unless the server lets us write (a tag of our experiment)."""
    client = connect()
    with mlflow_errors():
        client.set_experiment_tag(_experiment_id(client), "sdpose.checked", str(int(time.time())))


def tag_run(run_id: str, tags: Mapping[str, str]) -> None:
    with mlflow_errors():
        TrackedRun(connect(), run_id).set_tags(tags)


def log_artifact(run_id: str, path: Path) -> None:
    """Adds a file to a run; a run that is not there (a deleted database) is ignored."""
    if run_tags(run_id) is not None:
        with mlflow_errors():
            connect().log_artifact(run_id, str(path))


def run_tags(run_id: str) -> dict[str, str] | None:
    """The tags of a run; None if there is no such run (another server, a deleted database)."""
    client = connect()
    from mlflow.exceptions import MlflowException

    with mlflow_errors():
        try:
            return dict(client.get_run(run_id).data.tags)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None


@dataclass(frozen=True)
class PastRun:
    run_id: str
    status: str
    params: dict[str, str]


def runs_named(name: str) -> list[PastRun]:
    """The last 100 runs of this name in our MLflow experiment, newest first."""
    client = connect()
    with mlflow_errors():
        experiment = client.get_experiment_by_name(experiment_name())
        if experiment is None:
            return []
        found = client.search_runs(
            [experiment.experiment_id], f"attributes.run_name = '{name}'", max_results=100
        )
    return [PastRun(run.info.run_id, run.info.status, dict(run.data.params)) for run in found]


def experiment_name() -> str:
    """The MLflow experiment that holds our runs: $MLFLOW_EXPERIMENT_NAME, else "sdpose"."""
    return os.environ.get(EXPERIMENT_VARIABLE) or DEFAULT_EXPERIMENT


def _experiment_id(client: Any) -> str:
    from mlflow.exceptions import MlflowException

    name = experiment_name()
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        if experiment.lifecycle_stage != "active":
            raise deleted_experiment(name, str(experiment.experiment_id))
        return str(experiment.experiment_id)
    database = sqlite_file(tracking_uri())
    location = None  # a server chooses
    if database is not None:
        # Two names may share a folder: runs have folders of their own in it.
        folder = re.sub(r"[^\w.-]|^\.+", "_", name)
        location = (artifacts_beside(database) / folder).as_uri()
    try:
        return str(client.create_experiment(name, location, EXPERIMENT_TAGS))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return _experiment_id(client)  # another run was faster


def _parent_tags() -> dict[str, str]:
    parent = os.environ.get(PARENT_RUN_VARIABLE)
    return {"mlflow.parentRunId": parent} if parent else {}


def _origin_tags(source: str) -> dict[str, str]:
    """MLflow's own tags of who made a run, and with what."""
    commit = git_commit()
    return {
        "mlflow.user": user_name(),
        "mlflow.source.name": source,
        "mlflow.source.type": "LOCAL",
        **({"mlflow.source.git.commit": commit} if commit else {}),
    }


def user_name() -> str:
    """The login name; a container's user may have none."""
    with contextlib.suppress(OSError, KeyError):
        return getpass.getuser()
    return f"uid {os.getuid()}"
