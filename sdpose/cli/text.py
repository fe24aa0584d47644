"""How commands lay out what they print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from sdpose.printable import printable, printable_line

__all__ = ["answer", "echo", "format_rows", "json_option", "printable", "printable_line", "shorten"]

json_option = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")


def echo(text: str, *, nl: bool = True, err: bool = False) -> None:
    """Prints text that may hold names of others; what a terminal would obey is escaped."""
    click.echo(printable(text), nl=nl, err=err)


def answer(text: str, value: Any, *, as_json: bool) -> None:
    """Prints the text, or with --json the value."""
    printed = json.dumps(value, indent=2, ensure_ascii=False, default=str) if as_json else text
    echo(printed)


def shorten(text: str, width: int) -> str:
    """The beginning and the end of a name that is too long, more of the end: variants differ there.

    >>> shorten("sdpose_s_v1_maskedkd_ratio_0.5", 20)
    'sdpose…dkd_ratio_0.5'
    """
    if len(text) <= width:
        return text
    head = (width - 1) // 3
    return f"{text[:head]}…{text[len(text) - max(width - 1 - head, 1) :]}"


def format_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """
    >>> print(format_rows(["name", "AP"], [["a", "0.5"], ["longer", "0.25"]]))
    name    AP
    a       0.5
    longer  0.25
    """
    table = [header, *([printable_line(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    )
