"""The report of a pipeline run: written, and copied to work dir, mirror and MLflow."""

from __future__ import annotations

import logging
import shutil
import traceback
from html import escape
from pathlib import Path
from typing import Any

from sdpose import tracking
from sdpose.config import Experiment
from sdpose.errors import UserError
from sdpose.files import matching, sha256_of_file
from sdpose.outputs.mirror import restore_files
from sdpose.report import write_report
from sdpose.storage import StoreUnavailableError, open_store
from sdpose.training.paths import OWN_FILES, REPORT, run_paths

logger = logging.getLogger(__name__)


def report_run(
    experiment: Experiment,
    out: Path,
    *,
    results: Path,
    checkpoint: Path,
    facts: dict[str, Any],
) -> None:
    """Writes the report to `out`, and copies to the work dir, its mirror and the MLflow run.

    A run of days must not fail because of its report: errors are logged, and written to `out`.

    Args:
        facts: of the run's summary: dataset_digest, git_commit, mlflow_run_id.
    """
    work_dir = run_paths(experiment).work_dir
    try:
        _fetch_logs(experiment, work_dir)
        write_report(
            work_dir,
            out,
            experiment=experiment,
            results=results,
            checkpoint=checkpoint,
            summary=facts,
        )
    except Exception as error:
        text = str(error) if isinstance(error, UserError) else traceback.format_exc()
        logger.warning(f"the report could not be made: {text}")
        page = f"<!doctype html><meta charset='utf-8'><pre>{escape(text)}</pre>"
        out.write_text(page, encoding="utf-8")
        return
    for where, keep in (
        ("the work dir", lambda: _keep(experiment, out, work_dir / REPORT)),
        ("MLflow", lambda: _log(facts.get("mlflow_run_id"), work_dir / REPORT)),
    ):
        try:
            keep()
        except (UserError, StoreUnavailableError, OSError) as error:
            logger.warning(f"the report was not kept in {where}: {error}")


def _fetch_logs(experiment: Experiment, work_dir: Path) -> None:
    """What trained elsewhere has left its logs in the mirror alone."""
    if (uri := run_paths(experiment).mirror) is not None and not matching(work_dir, "*.log.json"):
        store = open_store(uri)
        work_dir.mkdir(parents=True, exist_ok=True)
        restore_files(store, list(store.list("")), work_dir, OWN_FILES)


def _keep(experiment: Experiment, report: Path, kept: Path) -> None:
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(report, kept)
    if (uri := run_paths(experiment).mirror) is not None:
        open_store(uri).put_file(kept, REPORT, sha256_of_file(kept))


def _log(mlflow_run_id: str | None, report: Path) -> None:
    if mlflow_run_id:
        tracking.log_artifact(mlflow_run_id, report)
