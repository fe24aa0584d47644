"""The end of a sweep: the ranking, its page, and the winner's checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdpose.code_version import git_commit
from sdpose.comparison.page import write_page
from sdpose.comparison.ranking import markdown, rank, winner
from sdpose.config import dump_experiment, parse_experiment
from sdpose.files import sha256_of_file
from sdpose.sweeps.trial import outcomes_on
from sdpose.tracking import close_sweep_run
from sdpose.training.checkpoint import same_file

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Winner:
    experiment: str  # whole, as YAML
    mlflow_run_id: str
    checkpoint_sha256: str
    metadata: dict[str, Any]  # of the checkpoint, as training's own step writes it


def close_sweep(
    sweep: str,
    trials: Sequence[dict[str, str]],
    outcomes: Sequence[str],
    *,
    dataset_digest: str,
    parent_run_id: str,
    table: Path,
    report: Path,
    checkpoint_folder: Path,
) -> Winner:
    """Writes the ranking to `table` (Markdown) and `report` (HTML), and copies the winner's best
    checkpoint into a new folder. Raises UserError if no trial ran to its end, the ranking being
    written.

    trials: of each, its name as `trial`, its settings (JSON) and its experiment. outcomes: of each,
    as JSON, in any order. dataset_digest: of the sweep's data.
    """
    entries = rank(trials, [o.to_json() for o in outcomes_on(outcomes, dataset_digest)])
    text = markdown(sweep, entries)
    log.info(text)
    table.write_text(text, encoding="utf-8")
    experiments = {trial["trial"]: trial["experiment"] for trial in trials}
    write_page(report, sweep, entries)
    best_ap = entries[0].ap.mean if entries and entries[0].ap else None
    if parent_run_id:
        files = {table: "ranking.md", report: "report.html"}
        close_sweep_run(parent_run_id, files, {} if best_ap is None else {"best/AP": best_ap})
    best = winner(entries)
    experiment, checkpoint = parse_experiment(experiments[best.name]), Path(best.checkpoint)
    checkpoint_folder.mkdir(parents=True)
    same_file(checkpoint, checkpoint_folder / checkpoint.name)
    return Winner(
        experiment=dump_experiment(experiment),
        mlflow_run_id=best.mlflow_run_id,
        checkpoint_sha256=sha256_of_file(checkpoint),
        metadata={
            "AP": best.ap,
            "file": checkpoint.name,
            "work_dir_path": best.checkpoint,
            "git_commit": git_commit(),
        },
    )
