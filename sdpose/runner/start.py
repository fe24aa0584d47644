"""Where a training begins, in its work dir and mirror, and on which data."""

from __future__ import annotations

from sdpose.config import Experiment
from sdpose.data.prepare import PreparedDataset, prepare_coco
from sdpose.models import build_model
from sdpose.outputs.lease import Lease
from sdpose.pack_store import prepare_pack
from sdpose.runner.process_group import is_restart
from sdpose.runner.work_dir import claim, find_start, open_mirror, start_anew
from sdpose.training.distributed import PREPARE_TIMEOUT, World, on_main
from sdpose.training.events import Say
from sdpose.training.resume import (
    Start,
    check_fits,
    check_same_data,
    check_trained_data,
    is_finished,
)


def begin(
    experiment: Experiment, world: World, *, overwrite: bool, lease: Lease | None, say: Say
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
            start = start_anew(experiment, say)
        else:
            start = find_start(experiment, *open_mirror(experiment, say), say)
        check_fits(experiment, start, build_model(experiment.model, initialise=False))
        return start

    def look() -> PreparedDataset:
        prepared = prepare_coco(experiment, pack_into=prepare_pack)
        for remark in prepared.remarks():
            say(remark)
        return prepared

    def take(start: Start) -> Start:
        if dataset is not None:
            check_same_data(experiment, start, dataset.digest, say)
        return claim(experiment, start, overwrite=overwrite, lease=lease, say=say)

    dataset = None
    start = on_main(world, choose, timeout=PREPARE_TIMEOUT)  # a mirror may be slow
    if is_finished(experiment, start):
        on_main(world, lambda: check_trained_data(experiment, start, say), timeout=PREPARE_TIMEOUT)
    else:
        dataset = on_main(world, look, timeout=PREPARE_TIMEOUT)
    return on_main(world, lambda: take(start), timeout=PREPARE_TIMEOUT), dataset
