"""The `sdpose` command: a file for each family of commands; one command is one call.

Heavy modules are imported inside the commands: `sdpose --help` must not wait for torch.
"""

from __future__ import annotations

import sys

import click

from sdpose import __version__
from sdpose.cli import (
    compare,
    completion,
    config,
    doctor,
    models,
    predict,
    registry,
    report,
    skeleton,
    steps,
    ui,
)
from sdpose.cli.text import echo
from sdpose.cli.usage_hints import explain
from sdpose.errors import UserError, user_errors


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def cli() -> None:
    """SDPose: small, accurate human-pose transformers, trained by self-distillation.

    EXP is the name of an experiment in pipelines/experiments (quickstart, sdpose_s_v1,
    maskedkd_v2, ...) or the path of a YAML file; train, test and launch also take an mmpose 0.x
    configuration (.py). The whole pipeline, tracked and registered, is run by
    `python pipelines/submit.py --exp EXP`; these commands are its single steps.
    """


for command in (
    steps.synth,
    config.config,
    skeleton.skeleton,
    steps.prepare,
    doctor.doctor,
    steps.train,
    steps.launch,
    steps.sync,
    steps.test,
    models.models,
    models.weights,
    predict.predict,
    predict.export,
    report.report,
    compare.compare,
    ui.ui,
    registry.registry,
    completion.completion,
):
    cli.add_command(command)


def main() -> None:
    with user_errors():
        try:
            cli(prog_name="sdpose", standalone_mode=False)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(2)
        except click.UsageError as error:
            raise UserError(explain(error, sys.argv[1:])) from None
        except click.ClickException as error:
            raise UserError(error.format_message()) from None
        except click.Abort:
            echo("interrupted", err=True)
            sys.exit(130)


__all__ = ["cli", "main"]
