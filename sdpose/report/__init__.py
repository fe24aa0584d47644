"""The report of a run: one HTML file that needs nothing else, made from what the run has left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdpose.config import Experiment
from sdpose.files import write_atomically
from sdpose.report.page import render
from sdpose.report.run_files import RunFiles, gather

__all__ = ["RunFiles", "gather", "write_report"]


def write_report(
    work_dir: Path,
    out: Path,
    *,
    experiment: Experiment | None = None,
    results: Path | None = None,
    checkpoint: Path | None = None,
    summary: dict[str, Any] | None = None,
) -> RunFiles:
    """Writes the report of a run to `out`; returns what it was made from (`missing` says what it
    lacks). The other arguments are `gather`'s."""
    files = gather(
        work_dir, experiment=experiment, results=results, checkpoint=checkpoint, summary=summary
    )
    page = render(files)
    write_atomically(out, page)
    return files
