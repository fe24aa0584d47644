"""The stores and the tracking server, asked with the credentials that the steps have."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from components.cluster import Cluster, is_s3
from pipelines.preflight.report import Report
from sdpose import tracking
from sdpose.config import Experiment
from sdpose.errors import UserError
from sdpose.registry import registry_root
from sdpose.storage import open_store

PROBE_FOLDER = "preflight"


def check_stores(experiment: Experiment, cluster: Cluster, report: Report) -> None:
    """The registry can be written, with what it needs to number versions; the work dir can be
    written; a dataset on S3 can be read."""
    root = registry_root()
    if not is_s3(root) and not any(
        Path(root).absolute().is_relative_to(volume.path) for volume in cluster.volumes
    ):
        report.problem(
            f"the model registry {root} is in the pods themselves, and gone with them",
            "set SDPOSE_REGISTRY in the profile's env, to s3://BUCKET/PREFIX or a path on a volume",
        )
    else:
        _check_writable(root, "the model registry", report, conditional=True)
    _check_writable(str(experiment.work_dir), "the work dir", report, conditional=False)
    if is_s3(cluster.data_root):
        try:
            if next(iter(open_store(cluster.data_root).list("")), None) is None:
                report.problem(f"there is nothing at {cluster.data_root}", "correct data_root")
            else:
                report.fine.append(f"the dataset {cluster.data_root} can be read")
        except UserError as error:
            report.problem(f"the dataset: {error}", "correct data_root, or its credentials")


def _check_writable(uri: str, what: str, report: Report, *, conditional: bool) -> None:
    key = f"{PROBE_FOLDER}/{uuid.uuid4().hex}"
    try:
        store = open_store(uri)
        store.put(key, b"preflight")
        try:
            readable = store.read(key) == b"preflight"
        finally:
            store.delete(key)
        capabilities = store.capabilities()
    except UserError as error:
        report.problem(f"{what}: {error}", "correct its address, its rights or its credentials")
        return
    if not readable:
        report.problem(f"{what} {uri} does not give back what was written", "look at the store")
    elif conditional and not capabilities.put_if_absent:
        report.problem(
            f"{what} {uri} knows no conditional writes ({'; '.join(capabilities.reasons)}): two "
            "runs could take the same version number",
            "use a store that honours If-None-Match (AWS S3, MinIO, Ceph, Swift)",
        )
    else:
        report.fine.append(f"{what} {uri} can be read and written")


def check_tracking(experiment: Experiment, report: Report) -> None:
    if not any(hook.type == "MlflowLoggerHook" for hook in experiment.log_config.hooks):
        return
    uri = tracking.tracking_uri()
    if uri.startswith("sqlite:"):
        report.problem(
            f"MLflow would write to {uri} in the pods themselves, gone with them",
            "set MLFLOW_TRACKING_URI in the profile's env",
        )
        return
    # MLflow's client would try for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    try:
        tracking.check_writable()
    except UserError as error:
        report.problems.append(str(error))
    else:
        report.fine.append(f"MLflow {tracking.shown_uri()} can be written")
