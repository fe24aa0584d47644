"""Checks what a run in this work dir would start from: a checkpoint, weights, or nothing."""

from __future__ import annotations

import tempfile
from pathlib import Path

from sdpose.checks.report import Report
from sdpose.config import Experiment
from sdpose.errors import UserError
from sdpose.files import matching
from sdpose.log_setup import log_to
from sdpose.models import SDPose
from sdpose.outputs.lease import LEASE, other_holder
from sdpose.outputs.work_dir_lock import locked
from sdpose.runner.work_dir import find_start, start_anew
from sdpose.storage import Store
from sdpose.training.paths import BEST, OWN_CHECKPOINTS, run_paths
from sdpose.training.resume import Start, check_fits

DAMAGED = "skipped a damaged checkpoint: "


def check_start(
    experiment: Experiment,
    model: SDPose,
    mirror: tuple[Store | None, list[str]],
    report: Report,
    *,
    overwrite: bool,
) -> None:
    """Whose the work dir is, which checkpoint is continued or which weights are loaded, and whether
    they are whole and fit the model. Changes nothing. mirror: see `workdir.open_mirror`."""
    paths = run_paths(experiment)
    work_dir, folder = paths.work_dir, paths.checkpoints
    try:
        if work_dir.is_dir():
            with locked(work_dir):
                pass
    except UserError as error:
        report.error("start", error)
    _check_lease(mirror, report)
    if overwrite:
        count = sum(len(matching(folder, name)) for name in OWN_CHECKPOINTS)
        report.fine.append(f"start: {count} checkpoints in {folder} go first")
    said: list[str] = []
    try:
        with log_to(said.append):
            start = start_anew(experiment) if overwrite else _find(experiment, mirror)
    except UserError as error:
        report.error("start", error)
        start = None
    for text in said:
        if text.startswith(DAMAGED):
            report.problem(
                f"start: {text.removeprefix(DAMAGED)}: damaged; training would pass it over",
                "remove it, or bring back a whole copy",
            )
        else:
            report.fine.append(f"start: {text}")
    if start is None:
        return
    if start.checkpoint is None or start.path is None:
        report.fine.append(f"start: from the beginning, in {work_dir}")
        _check_weights(experiment, model, report)
        return
    _check_checkpoint(experiment, start, model, report)


def _check_lease(mirror: tuple[Store | None, list[str]], report: Report) -> None:
    store, keys = mirror
    if store is None or LEASE not in keys:
        return
    try:
        holder = other_holder(store)
    except UserError as error:
        report.error("start", error)
        return
    if holder is not None:
        report.problem(
            f"start: {store.uri(LEASE)}: in use by another training: {holder}. A training here is "
            f"refused while that one is alive, else it waits {holder.expires_after:.0f} s",
            "wait for it, end it, or choose another --work-dir",
        )


def _find(experiment: Experiment, mirror: tuple[Store | None, list[str]]) -> Start:
    with tempfile.TemporaryDirectory(prefix="sdpose-doctor-") as scratch:
        for best in matching(run_paths(experiment).checkpoints, BEST):
            Path(scratch, best.name).symlink_to(best.absolute())  # or it would be fetched
        return find_start(experiment, *mirror, scratch=Path(scratch))


def _check_checkpoint(experiment: Experiment, start: Start, model: SDPose, report: Report) -> None:
    assert start.checkpoint is not None
    assert start.path is not None
    meta, total = start.checkpoint["meta"], experiment.total_epochs
    is_here = start.path.exists()  # else it was fetched, and is gone again
    path = str(start.path) if is_here else f"the mirror's {start.path.name}"
    try:
        check_fits(experiment, start, model)
    except UserError as error:
        report.error("start", UserError(str(error).replace(str(start.path), path)))
        return
    if meta["epoch"] >= total:
        report.fine.append(f"start: {path} has all of {total} epochs: nothing is left to do")
        return
    inside = f" and {meta['iteration_in_epoch']} steps" if meta.get("iteration_in_epoch") else ""
    report.fine.append(
        f"start: continues {path}, which is whole: {meta['epoch']} of {total} epochs{inside} "
        "are done"
    )


def _check_weights(experiment: Experiment, model: SDPose, report: Report) -> None:
    """load_from, else model.pretrained."""
    key, path = "load_from", experiment.load_from
    if not path:
        key, path = "model.pretrained", experiment.model.pretrained
    if not path:
        return
    try:
        loaded = check_fits(experiment, Start(), model)
    except UserError as error:
        report.error(key, error)
        return
    assert loaded is not None
    report.fine.append(f"{key}: {path}: {loaded.summary()}")
