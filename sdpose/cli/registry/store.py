"""What the registry's commands share: the store that they work on, and how they answer."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sdpose.printable import printable
from sdpose.registry.layout import ROOT_VARIABLE, registry_root
from sdpose.registry.signatures import PUBLIC_KEY_VARIABLE, SIGNING_KEY_VARIABLE
from sdpose.storage import open_store

Command = Callable[..., Any]
REFUSED = 1  # exit code: the gate said no, or something is damaged

public_key_option = click.option(
    "--public-key",
    type=click.Path(path_type=Path),
    metavar="PUBLIC.pem",
    help=f"Whoever has its private key must have signed it [default: ${PUBLIC_KEY_VARIABLE}]",
)
allow_older_option = click.option(
    "--allow-older",
    is_flag=True,
    help="Take a signed pointer that is older than one that this machine has seen, because the "
    "registry was restored. Once: then that is the newest.",
)
sign_option = click.option(
    "--sign",
    "key",
    type=click.Path(path_type=Path),
    metavar="KEY.pem",
    help=f"Sign it with this private key, see `sign` [default: ${SIGNING_KEY_VARIABLE}]",
)


def on_store(command: Command) -> Command:
    """Gives a command the store and --json; what it returns is printed: a text, or a value."""

    @click.option("--registry", "root", metavar="URI", help=f"[default: ${ROOT_VARIABLE}]")
    @click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
    @functools.wraps(command)
    def wrapped(root: str | None, as_json: bool, **arguments: Any) -> None:
        text, value, *exit_code = command(open_store(root or registry_root()), **arguments)
        click.echo(_as_json(value) if as_json else printable(text))
        sys.exit(*exit_code)

    return wrapped


def _as_json(value: Any) -> str:
    """JSON that strict readers take: manifests of earlier versions may hold NaN, shown as null."""
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError:
        read = json.loads(json.dumps(value), parse_constant=lambda name: None)
        text = json.dumps(read, indent=2, ensure_ascii=False, allow_nan=False)
    return printable(text)  # JSON allows controls that a terminal obeys


def warn(text: str) -> None:
    click.echo(printable(text), err=True)
