"""The report of a run: one self-contained HTML file, made from the files of the run."""

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
    """Writes the report of a run to `out`. The other arguments are those of `gather`.

    Returns:
        The files that it was made from; `missing` says what the report lacks.
    """
    files = gather(
        work_dir, experiment=experiment, results=results, checkpoint=checkpoint, summary=summary
    )
    page = render(files)
    write_atomically(out, page)
    return files
