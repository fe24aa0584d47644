"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import click

from sdpose.cli.completion import complete_experiment
from sdpose.cli.text import echo
from sdpose.config.key_names import described_short_keys

Command = Callable[..., Any]


def _say_short_keys(
    context: click.Context, _parameter: click.Parameter, overrides: tuple[str, ...]
) -> tuple[str, ...]:
    if not context.resilient_parsing and os.environ.get("LOCAL_RANK", "0") == "0":
        for line in described_short_keys(text.partition("=")[0].strip() for text in overrides):
            echo(f"--set: {line}", err=True)
    return overrides


overrides_option = click.option(
    "--set",
    "overrides",
    metavar="KEY.PATH=VALUE",
    multiple=True,
    callback=_say_short_keys,
    help="Change one value of the experiment; repeatable. Short: mask_ratio, loss_weight, lr, ...",
)


def experiment_options(command: Command) -> Command:
    """The argument and options that say which experiment, on which data, into which folder."""
    return _with(
        command,
        click.argument("exp", shell_complete=complete_experiment),
        click.option("--data-root", metavar="DIR", help="Folder of the COCO dataset."),
        click.option("--work-dir", metavar="DIR", help="Folder of the results."),
        overrides_option,
    )


def start_options(command: Command) -> Command:
    """What a training begins with."""
    return _with(
        command,
        click.option(
            "--resume-from", metavar="PATH|auto", help="Continue this checkpoint, or the newest."
        ),
        click.option("--load-from", metavar="PATH", help="Start from the weights of this file."),
        click.option(
            "--overwrite", is_flag=True, help="Remove what the work dir holds and start over."
        ),
    )


allow_unsupported_option = click.option(
    "--allow-unsupported",
    is_flag=True,
    help="Leave out what an mmpose configuration (.py) has and is not supported, losses too.",
)


def _with(command: Command, *decorators: Callable[[Command], Command]) -> Command:
    for decorator in reversed(decorators):
        command = decorator(command)
    return command
