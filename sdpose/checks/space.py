"""Checks that there is room for the run's checkpoints: one is written, the others are counted."""

from __future__ import annotations

import errno
import io
import os
import shutil
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import torch

from sdpose.checks.report import Report
from sdpose.config import Experiment
from sdpose.errors import UserError
from sdpose.files import matching, sha256_of_file
from sdpose.storage import FileStore, S3Store, Store
from sdpose.training.checkpoint import Checkpoint
from sdpose.training.paths import OWN_CHECKPOINTS, run_paths

MAKE_ROOM = "make room, or keep fewer: --set checkpoint_config.max_keep_ckpts=3"
OTHER_FOLDER = "choose a folder that can be written"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Need:
    """Bytes that will be written below a folder."""

    what: str
    folder: Path
    size: int


def kept_checkpoints(experiment: Experiment) -> int:
    """The most .pth files that a run holds at once: epoch_N.pth, latest.pth, the best one, and one
    that is being written."""
    settings, epochs = experiment.checkpoint_config, experiment.total_epochs
    numbered = epochs // settings.interval
    numbered += bool(epochs % settings.interval and settings.save_last)
    if settings.max_keep_ckpts >= 0:
        numbered = min(numbered, settings.max_keep_ckpts)
    return numbered + 2 + bool(experiment.evaluation.save_best)


def check_space(
    experiment: Experiment,
    checkpoint: Checkpoint,
    mirror: Store | None,
    registry: Store | None,
    others: list[Need],
    report: Report,
) -> None:
    """Work dir, mirror, and the model registry if it is a folder; others: what else will be
    written."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    content, count = buffer.getbuffer(), kept_checkpoints(experiment)
    whole = count * len(content)
    wanted = f"{count} checkpoints of {_shown(len(content))} with optimizer"
    wanted += " and EMA" if experiment.ema else ""
    paths = run_paths(experiment)
    folder = paths.checkpoints
    needs = [*others, Need(f"checkpoints ({wanted})", folder, whole - _there(folder))]
    folders = {"checkpoints": folder}
    if folder != paths.work_dir:
        folders["the work dir"] = paths.work_dir
    if isinstance(registry, FileStore):
        folders["the model registry"] = registry.root
    if isinstance(mirror, S3Store):
        _check_bucket(mirror, content, wanted, whole, report)
    elif isinstance(mirror, FileStore):
        folders["the mirror"] = mirror.root
        needs.append(Need("the mirror", mirror.root, whole - _there(mirror.root)))
    for what, place in folders.items():
        _try_to_write(what, place, content, report)
    _check_disks(needs, report)


def existing(folder: Path) -> Path:
    """The folder, or what is there of the path to it (which may be a file)."""
    return next(p for p in [folder.absolute(), *folder.absolute().parents] if p.exists())


def _check_disks(needs: list[Need], report: Report) -> None:
    """What goes to one file system is added up."""
    by_disk: dict[int, list[Need]] = {}
    for need in needs:
        if need.size > 0:
            by_disk.setdefault(existing(need.folder).stat().st_dev, []).append(need)
    for on_it in by_disk.values():
        place, total = existing(on_it[0].folder), sum(need.size for need in on_it)
        free = shutil.disk_usage(place).free
        parts = " + ".join(f"{need.what} {_shown(need.size)}" for need in on_it)
        text = f"disk: {parts}; {_shown(free)} are free in {place}"
        if total > free:
            report.problem(f"{text}: {_shown(total - free)} too little", MAKE_ROOM)
        else:
            report.fine.append(text)


def _try_to_write(what: str, folder: Path, content: memoryview, report: Report) -> None:
    """A file of the name that trainings remove, should this be killed."""
    place = existing(folder)
    if not place.is_dir():
        report.problem(f"{what}: {place} is a file; a folder is needed there", OTHER_FOLDER)
        return
    path, started = place / ".doctor.pth.tmp", time.perf_counter()
    try:
        try:
            path.unlink(missing_ok=True)
            with path.open("xb") as file:
                file.write(content)
                os.fsync(file.fileno())
        finally:
            path.unlink(missing_ok=True)
    except OSError as error:
        report.problem(
            f"{what}: {_shown(len(content))} cannot be written in {place}: {error.strerror}",
            MAKE_ROOM if error.errno in FULL else OTHER_FOLDER,
        )
    else:
        seconds = time.perf_counter() - started
        report.fine.append(
            f"{what}: one of {_shown(len(content))} was written in {place} in {seconds:.1f} s"
        )


def _check_bucket(
    store: S3Store, content: memoryview, wanted: str, whole: int, report: Report
) -> None:
    """A checkpoint goes there and away again, in parts as it will."""
    key, started = f"doctor/{uuid.uuid4().hex}", time.perf_counter()
    path = Path(tempfile.gettempdir()) / f"sdpose-doctor-{uuid.uuid4().hex}"
    try:
        path.write_bytes(content)
        try:
            store.put_file(path, key, sha256_of_file(path))
        finally:
            store.delete(key)
        left = store.room()
    except (UserError, OSError) as error:
        report.error("the mirror: a checkpoint cannot be uploaded", error)
        return
    finally:
        path.unlink(missing_ok=True)
    seconds = time.perf_counter() - started
    text = f"the mirror: {wanted} need {_shown(whole)} there"
    if left is not None and left < whole:
        report.problem(f"{text}; the bucket's quota leaves {_shown(left)}", MAKE_ROOM)
    else:
        quota = "the server tells no quota" if left is None else f"the quota leaves {_shown(left)}"
        report.fine.append(f"{text} ({quota}); one was uploaded and removed in {seconds:.1f} s")


def _there(folder: Path) -> int:
    """Bytes of the checkpoints that lie there, which the run will replace; links count once."""
    files = {path.stat() for name in OWN_CHECKPOINTS for path in matching(folder, name)}
    return sum({status.st_ino: status.st_size for status in files}.values())


def _shown(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
