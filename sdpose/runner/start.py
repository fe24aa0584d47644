"""Where a training begins, in its work dir and mirror, and on which data."""

from __future__ import annotations

import logging
from pathlib import Path

from sdpose.config import Experiment
from sdpose.errors import UserError
from sdpose.models import build_model
from sdpose.outputs.lease import Lease
from sdpose.pack_store import prepare_pack
from sdpose.prepare.dataset import PreparedDataset, prepare_coco, unusable_images
from sdpose.runner.process_group import is_restart
from sdpose.runner.work_dir import claim, find_start, open_mirror, start_anew
from sdpose.training.distributed import PREPARE_TIMEOUT, World, on_main
from sdpose.training.resume import (
    Start,
    check_fits,
    check_same_data,
    is_finished,
)
from sdpose.training.run import SkipImages

logger = logging.getLogger(__name__)


def begin(
    experiment: Experiment, world: World, *, overwrite: bool, lease: Lease | None
) -> tuple[Start, PreparedDataset | None]:
    """Makes the work dir this experiment's and returns where training begins, and on which data.

    No dataset: there is nothing to train, the work dir holds the finished run, on the same data.
    overwrite: what trainings left there goes first; not at a restart, which finds its own results.
    lease: of the mirror, on rank 0.
    Raises UserError with the work dir as it was, but for what was fetched from a mirror, if the run
    cannot begin: see `find_start`, `check_fits`, `check_same_data`, `prepare_coco`.
    """
    overwrite = overwrite and not is_restart()

    def choose() -> Start:
        if overwrite:
            start = start_anew(experiment)
        else:
            start = find_start(experiment, *open_mirror(experiment))
        num_keypoints = experiment.keypoints.num_keypoints
        check_fits(
            experiment, start, build_model(experiment.model, num_keypoints, initialise=False)
        )
        return start

    def look() -> PreparedDataset:
        prepared = prepare_coco(experiment, pack_into=prepare_pack)
        for remark in prepared.remarks():
            logger.info(remark)
        return prepared

    def take(start: Start) -> Start:
        if dataset is not None:
            check_same_data(experiment, start, dataset.digest)
        return claim(experiment, start, overwrite=overwrite, lease=lease)

    dataset = None
    start = on_main(world, choose, timeout=PREPARE_TIMEOUT)  # a mirror may be slow
    if is_finished(experiment, start):
        on_main(world, lambda: check_trained_data(experiment, start), timeout=PREPARE_TIMEOUT)
    else:
        dataset = on_main(world, look, timeout=PREPARE_TIMEOUT)
    return on_main(world, lambda: take(start), timeout=PREPARE_TIMEOUT), dataset


def skipped_images(experiment: Experiment, world: World) -> SkipImages:
    """With data.on_corrupt `skip`: read once, and sent to all ranks."""
    return on_main(
        world,
        lambda: SkipImages(
            train=unusable_images(experiment, "train"), val=unusable_images(experiment, "val")
        ),
        timeout=PREPARE_TIMEOUT,
    )


def check_trained_data(experiment: Experiment, start: Start) -> None:
    """UserError if a finished run was trained on other data than there is now: what it left would
    be taken for a result on this data."""
    assert start.checkpoint is not None
    trained = start.checkpoint["meta"].get("dataset_digest")
    if not Path(experiment.data_root).is_dir():
        logger.info(
            f"{experiment.data_root} is not there, so that the data is not compared with the run's"
        )
        return
    found = prepare_coco(experiment, with_pack=False).digest
    if trained in (None, found):
        return
    raise UserError(
        f"{start.path} is of a finished run, on other data: the dataset's digest was "
        f"{trained[:12]} and is {found[:12]} now; nothing is changed.\n  Bring the data back "
        "(data_root, data.*; `sdpose prepare` shows the digest),\n  choose --work-dir DIR (or "
        "another exp_name) for a new run,\n  go on with the new data (--resume-from auto, and a "
        "larger total_epochs), or --overwrite to train again from the beginning."
    )
