"""`submit.py resume RUN | cancel RUN`, and the options that they share with submitting."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from pipelines.options import CLUSTER_VARIABLE

Command = Callable[..., Any]
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

endpoint_option = click.option(
    "--endpoint",
    "--host",
    metavar="URL",
    help="Of Kubeflow Pipelines, or kubeconfig[:CONTEXT] to reach it through the API server; else "
    "the profile's, $KFP_ENDPOINT, or the cluster that this runs in. Credentials: $KFP_TOKEN, "
    "$KFP_COOKIE, a pod's token file, the kubeconfig's. A private authority (TLS): $SSL_CERT_FILE.",
)
cluster_option = click.option(
    "--cluster",
    "profile",
    metavar="FILE",
    envvar=CLUSTER_VARIABLE,
    help=f"The cluster profile, needed on a cluster (docs/cluster.md); else ${CLUSTER_VARIABLE}.",
)
wait_option = click.option(
    "--wait",
    is_flag=True,
    help="Stay until the run on the cluster has ended. Exit code: 0 SUCCEEDED, 1 FAILED, "
    "3 CANCELED, 4 SKIPPED, 5 out of touch for long.",
)
interrupt_option = click.option(
    "--cancel-on-interrupt", is_flag=True, help="Ctrl-C while waiting ends the run, too."
)


@click.command(context_settings=SETTINGS)
@click.argument("run")
@cluster_option
@endpoint_option
@wait_option
@interrupt_option
def resume(
    run: str, profile: str | None, endpoint: str | None, wait: bool, cancel_on_interrupt: bool
) -> None:
    """Run again what has not succeeded of RUN.

    RUN is the id of a run on a cluster, or the work dir of a run on this machine (work_dirs/NAME,
    or NAME alone). Steps that have succeeded are not run again; training continues from its newest
    checkpoint.
    """
    from pipelines.local.run_local import is_local_run, resume_here

    for place in (run, f"work_dirs/{run}"):
        if is_local_run(place):
            resume_here(place)
            return
    from pipelines.choose_runner import endpoint_of_run
    from pipelines.kfp_client.api import Kfp
    from pipelines.kfp_client.runs import follow_or_cancel, resume_run

    kfp = Kfp(endpoint_of_run(run, endpoint, profile))
    run = resume_run(kfp, run)
    if wait:
        sys.exit(follow_or_cancel(kfp, run, cancel_on_interrupt=cancel_on_interrupt))


@click.command(context_settings=SETTINGS)
@click.argument("run")
@cluster_option
@endpoint_option
def cancel(run: str, profile: str | None, endpoint: str | None) -> None:
    """End RUN, a run or a schedule on a cluster, by its id.

    Its training job ends with it, and saves a checkpoint first. (A run on this machine is ended by
    Ctrl-C.)
    """
    from pipelines.choose_runner import endpoint_of_run
    from pipelines.kfp_client.api import Kfp
    from pipelines.kfp_client.runs import cancel as end

    end(Kfp(endpoint_of_run(run, endpoint, profile)), run)
