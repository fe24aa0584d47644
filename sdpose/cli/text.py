"""How commands lay out what they print."""

from __future__ import annotations

from collections.abc import Sequence


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
