"""What submit.py prints and asks."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from sdpose.printable import printable


def say(text: str, **style: Any) -> None:
    """A line for people. (While kfp runs, sys.stdout is its log.)"""
    assert sys.__stdout__ is not None
    text = printable(text)
    colours = sys.__stdout__.isatty() and not os.environ.get("NO_COLOR")
    click.echo(click.style(text, **style) if style and colours else text, file=sys.__stdout__)


def confirm(question: str, yes: bool) -> None:
    """Asks where somebody can answer; elsewhere the flags are the answer."""
    if not yes and sys.stdin.isatty() and not click.confirm(printable(question)):
        raise click.Abort


def same_command() -> str:
    """A training continues by itself, so the same command does; --overwrite would start again."""
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    return shlex.join([str(python), *(a for a in sys.argv if a != "--overwrite")])
