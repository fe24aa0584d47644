"""Checks stores and the tracking server, with the credentials of the steps."""

from __future__ import annotations

from pathlib import Path

from components.profile import Cluster, is_s3
from sdpose import tracking
from sdpose.checks import services
from sdpose.checks.report import Report
from sdpose.config import Experiment
from sdpose.errors import UserError
from sdpose.registry import registry_root
from sdpose.storage import open_store


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
        services.check_writable(root, "the model registry", report, conditional=True)
    services.check_writable(str(experiment.work_dir), "the work dir", report, conditional=False)
    if is_s3(cluster.data_root):
        try:
            if next(iter(open_store(cluster.data_root).list("")), None) is None:
                report.problem(f"there is nothing at {cluster.data_root}", "correct data_root")
            else:
                report.fine.append(f"the dataset {cluster.data_root} can be read")
        except UserError as error:
            report.error("the dataset", error, "correct data_root, or its credentials")


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
    with services.time_limits():
        services.check_tracking(report)
