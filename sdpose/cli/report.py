"""`sdpose report`: a run as one HTML file."""

from __future__ import annotations

from pathlib import Path

import click

from sdpose.cli.text import echo


@click.command()
@click.argument("work_dir", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Default: report.html in the work dir.",
)
@click.option(
    "--results",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="F.json",
    help="What `sdpose test --out F.json` wrote; default: the newest in the work dir.",
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    help="The one that was evaluated; default: the best of the work dir.",
)
def report(work_dir: Path, out: Path | None, results: Path | None, checkpoint: Path | None) -> None:
    """Write the report of the run in WORK_DIR: one HTML file that needs no network.

    Curves of the training, precision by joint and size, kinds of errors, calibration, the best and
    worst pictures, attention, speed, environment. What the run has not left is said, not guessed.
    """
    from sdpose.report import write_report
    from sdpose.training.paths import REPORT

    path = out or work_dir / REPORT
    files = write_report(work_dir, path, results=results, checkpoint=checkpoint)
    for why in files.missing.values():
        echo(f"missing: {why}")
    echo(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
