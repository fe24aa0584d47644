"""`python -m components.launcher render`: the manifest, for `kubectl apply -f -`."""

from __future__ import annotations

import click

from components.launcher import build_job, job_name
from components.launcher.build import to_yaml
from components.launcher.compatibility import fit
from components.launcher.kinds import assume_kind
from components.profile import load_cluster
from sdpose.config import load_experiment
from sdpose.errors import user_errors


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """The training job on Kubernetes, without a pipeline."""


@cli.command()
@click.option("--exp", required=True, metavar="NAME", help="Experiment, or path of a YAML file.")
@click.option("--cluster", "profile", required=True, metavar="FILE", help="The cluster profile.")
@click.option("--set", "overrides", metavar="KEY.PATH=VALUE", multiple=True)
@click.option("--run-id", default="manual", show_default=True, help="Part of the job's name.")
@click.option("--train-api", type=click.Choice(["pytorchjob", "trainjob", "auto"]))
def render(
    exp: str, profile: str, overrides: tuple[str, ...], run_id: str, train_api: str | None
) -> None:
    """Print the manifest of the job that trains NAME, for the oldest supported operator."""
    cluster, notes = assume_kind(load_cluster(profile, train_api=train_api))
    for note in notes:
        click.echo(note, err=True)
    experiment = load_experiment(exp, overrides)
    experiment = load_experiment(exp, overrides, **cluster.places(experiment.exp_name))
    job, _ = fit(build_job(job_name(experiment, run_id), experiment, cluster))
    click.echo(to_yaml(job), nl=False)


if __name__ == "__main__":
    with user_errors():
        cli()
