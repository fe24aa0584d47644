"""`sdpose models | weights`: architectures and weight files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Literal

import click

from sdpose.cli.text import answer, json_option


@click.command()
@json_option
def models(as_json: bool) -> None:
    """The four models: parameters and multiply-accumulates, beside the paper's figures."""
    from sdpose.inference.complexity import format_models_table, models_table

    rows = models_table()
    answer(format_models_table(rows), [asdict(row) for row in rows], as_json=as_json)


@click.group()
def weights() -> None:
    """Weight files."""


@weights.command("convert")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "layout",
    type=click.Choice(["sdpose", "official"]),
    help="Whose names the tensors get; default: ours from official ones, official from ours.",
)
def weights_convert(
    source: Path, target: Path, layout: Literal["sdpose", "official"] | None
) -> None:
    """Rewrite SOURCE as TARGET (.pth or .safetensors), from official names to ours or back.

    The numbers stay the same, bit for bit.
    """
    from sdpose.models.weights import convert_weights

    convert_weights(source, target, layout=layout)
