"""`sdpose registry`: versions of models, their channels, and what keeps them sound."""

from __future__ import annotations

import click

from sdpose.cli.registry import channels, maintenance, versions


@click.group()
def registry() -> None:
    """Versions of models: register, promote, roll back, pull, check.

    The registry is a folder or an S3 prefix: --registry URI or $SDPOSE_REGISTRY, default
    work_dirs/registry. MLflow follows where $MLFLOW_TRACKING_URI is set.
    """


for command in (
    versions.register,
    versions.sign,
    versions.list_,
    versions.show,
    versions.diff,
    versions.pull,
    channels.promote,
    channels.rollback,
    channels.history_,
    channels.withdraw,
    maintenance.verify,
    maintenance.gc,
    maintenance.reconcile,
):
    registry.add_command(command)

__all__ = ["registry"]
