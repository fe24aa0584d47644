"""`sdpose doctor`: the pre-run checks."""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from sdpose.cli.options import experiment_options, start_options
from sdpose.cli.text import answer, json_option
from sdpose.config import load_experiment


@click.command()
@experiment_options
@start_options
@click.option(
    "--steps",
    type=click.IntRange(0),
    default=0,
    help="Also train so many steps on the dataset, and look at their losses.",
)
@json_option
def doctor(
    exp: str,
    overrides: tuple[str, ...],
    overwrite: bool,
    steps: int,
    as_json: bool,
    **options: str | None,
) -> None:
    """Look whether all is there that training EXP needs: all problems, each with its remedy.

    \b
    name      does it stand for these settings alone (work dir, MLflow, model registry)?
    data      are annotations and images there, do some of them decode, who is left out?
    batch     does it fit? Steps with all options of the run, on a GPU
    steps     with --steps 10: do losses and gradients stay finite?
    space     for the checkpoints to come: disk, bucket, shared memory
    start     what would be continued, is it whole, does it fit the model?
    services  do MLflow and S3 answer?

    Takes the options of `sdpose train`, and changes nothing. Exit code 0: all is there, 1: there
    are problems, 2: EXP cannot be read.
    """
    experiment = load_experiment(exp, overrides, **options)

    from sdpose.checks.examine import examine

    report = examine(experiment, overwrite=overwrite, steps=steps)
    answer(report.summary(), asdict(report), as_json=as_json)
    sys.exit(1 if report.problems else 0)
