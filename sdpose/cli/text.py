"""How commands lay out what they print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")


def answer(text: str, value: Any, *, as_json: bool) -> None:
    """Prints the text, or with --json the value."""
    printed = json.dumps(value, indent=2, ensure_ascii=False, default=str) if as_json else text
    click.echo(printed)


def format_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """
    >>> print(format_rows(["name", "AP"], [["a", "0.5"], ["longer", "0.25"]]))
    name    AP
    a       0.5
    longer  0.25
    """
    table = [header, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    )
