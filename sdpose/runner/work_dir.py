"""The work dir: whose results it holds, what a run continues from, and one run at a time."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path

from sdpose.config import Experiment, dump_experiment
from sdpose.errors import UserError
from sdpose.files import atomic_file, matching
from sdpose.outputs.lease import Lease
from sdpose.outputs.mirror import newer_checkpoint, restore_files
from sdpose.outputs.work_dir_lock import remove_results, results_of
from sdpose.runner.experiment_changes import differences, stored_experiment
from sdpose.storage import Store, StoreUnavailableError, open_store
from sdpose.training.checkpoint import (
    Checkpoint,
    CorruptCheckpointError,
    load_checkpoint,
    newest_checkpoint,
    same_file,
)
from sdpose.training.paths import (
    EXPERIMENT_FILE,
    LATEST,
    OWN_FILES,
    newest_first,
    run_paths,
)
from sdpose.training.resume import Start

# No upload of a checkpoint goes on for longer.
UPLOADS_TAKE = timedelta(days=1)

logger = logging.getLogger(__name__)


def claim(
    experiment: Experiment, start: Start, *, overwrite: bool, lease: Lease | None = None
) -> Start:
    """Makes the work dir this experiment's, and the checkpoint that it begins with its newest.

    overwrite: removes first what trainings left there. lease: of the mirror.
    """
    paths = run_paths(experiment)
    work_dir, folder = paths.work_dir, paths.checkpoints
    if overwrite:
        remove_results(experiment)
    _remove_leftovers(experiment, lease)
    if start.path is not None:
        # From here on the newest: what is there already may be damaged, or of a later epoch.
        folder.mkdir(parents=True, exist_ok=True)
        same_file(start.path, folder / LATEST)
    with atomic_file(work_dir / EXPERIMENT_FILE) as file:
        file.write(dump_experiment(experiment).encode())
    return start


def start_anew(experiment: Experiment) -> Start:
    """Where a training begins that removes what is there: at `resume_from`, if that is a file.

    Raises UserError if that would remove what the training begins with.
    """
    sources = {
        "resume_from": experiment.resume_from,
        "load_from": experiment.load_from,
        "model.pretrained": experiment.model.pretrained,
    }
    mirror = run_paths(experiment).mirror
    results = {path.resolve() for path in results_of(experiment)}
    for key, source in sources.items():
        if source and (
            (mirror is not None and source.startswith(f"{mirror.rstrip('/')}/"))
            or Path(source).resolve() in results
        ):
            raise UserError(
                f"--overwrite would remove {source}, which {key} names; nothing is removed. Copy "
                "it to another place first, or choose another --work-dir for the new run"
            )
    path = experiment.resume_from
    if path == "auto":
        logger.info("--overwrite leaves nothing to resume: starting from the beginning")
    if path in (None, "auto"):
        return Start()
    return Start(checkpoint=_load_named(path), path=Path(path))


def find_start(
    experiment: Experiment,
    store: Store | None,
    keys: list[str],
    *,
    scratch: Path | None = None,
) -> Start:
    """Where a training of the experiment begins; store, keys: see `open_mirror`.

    A new folder starts at the beginning. The same experiment's continues by itself, from the newest
    intact checkpoint of the folder or its mirror. Another experiment's is refused (UserError),
    unless `resume_from` is set.
    scratch: what is fetched goes there, and nothing else is changed; default: to its place.
    """
    paths = run_paths(experiment)
    work_dir, folder = paths.work_dir, paths.checkpoints
    documents = [path.read_bytes() for path in [work_dir / EXPERIMENT_FILE] if path.is_file()]
    if store is not None and EXPERIMENT_FILE in keys:
        documents.append(store.read(EXPERIMENT_FILE))
    known = [stored_experiment(document) for document in documents]
    differing = list(dict.fromkeys(d for text in documents for d in differences(text, experiment)))
    has_results = bool(matching(folder, "*.pth") or newest_first(keys))
    if has_results and not experiment.resume_from and (differing or not known):
        raise UserError(_refusal(work_dir, differing))
    same_run = bool(known) and not differing
    for line in differing if has_results else []:
        logger.info(f"differs from the experiment in {work_dir}: {line}")

    path = experiment.resume_from
    if path in (None, "auto") or (same_run and known[0].get("resume_from") == path):
        # The second case: this run was started from `path` and has gone on since.
        found = _newest(experiment, store, keys, scratch)
    else:
        found = Path(str(path)), _load_named(str(path))
    if found is None:
        if path is not None:
            logger.info(f"nothing to resume in {folder}: starting from the beginning")
        return Start(same_run=same_run)
    if experiment.load_from:
        logger.info(f"load_from ({experiment.load_from}) is not read: the checkpoint is continued")
    return Start(checkpoint=found[1], path=found[0], same_run=same_run)


def _remove_leftovers(experiment: Experiment, lease: Lease | None) -> None:
    """Of a run that was killed while it saved or uploaded.

    Without the lease, the young uploads in the mirror may be another training's.
    """
    paths = run_paths(experiment)
    for leftover in matching(paths.checkpoints, ".*.pth.tmp"):
        leftover.unlink()
    try:
        if (uri := paths.mirror) is not None:
            age = timedelta() if lease is not None and lease.is_held else UPLOADS_TAKE
            open_store(uri).sweep(age, dry_run=False)
    except UserError as error:  # it may be a right that training does not need
        logger.warning(f"uploads that were cut off are not removed: {error}")


def newest(experiment: Experiment) -> tuple[Path, Checkpoint] | None:
    """The newest intact checkpoint of the work dir or its mirror, fetched from there."""
    return _newest(experiment, *open_mirror(experiment))


def _newest(
    experiment: Experiment,
    store: Store | None,
    keys: list[str],
    scratch: Path | None = None,
) -> tuple[Path, Checkpoint] | None:
    paths = run_paths(experiment)
    folder = paths.checkpoints
    found = newest_checkpoint(folder)
    if store is None:
        return found
    if scratch is None:
        folder.mkdir(parents=True, exist_ok=True)
        restore_files(store, keys, paths.work_dir, OWN_FILES)
    return newer_checkpoint(store, keys, scratch or folder, found)


def open_mirror(experiment: Experiment) -> tuple[Store | None, list[str]]:
    """The mirror, if there is one and it answers, and the keys that it holds."""
    paths = run_paths(experiment)
    uri, folder = paths.mirror, paths.checkpoints
    if uri is None:
        return None, []
    logger.info(f"checkpoints and logs are in {folder}, and are uploaded to {uri}")
    try:
        store = open_store(uri)
        return store, list(store.list(""))
    except StoreUnavailableError as error:
        if not matching(folder, "*.pth"):
            raise UserError(
                f"{error}\n  It may hold a newer checkpoint than {folder}: nothing is started. "
                "Mend it, or train without: a folder as work_dir, and no checkpoint_config.mirror."
            ) from None
        logger.warning(f"{error}\n  Continuing from {folder} without looking there.")
        return None, []


def _load_named(path: str) -> Checkpoint:
    try:
        return load_checkpoint(Path(path))
    except OSError as error:
        raise UserError(
            f"resume_from: cannot read {path} ({error.strerror}); name a checkpoint (epoch_N.pth, "
            "latest.pth), or auto for the newest of the work dir"
        ) from None
    except CorruptCheckpointError as error:
        raise UserError(
            f"resume_from: damaged checkpoint: {error}; name another one, or auto for the newest "
            "intact one of the work dir"
        ) from None


def _refusal(work_dir: Path, differing: list[str]) -> str:
    what = "another experiment's results" if differing else "checkpoints of unknown origin"
    shown = differing[:12] + [f"... and {len(differing) - 12} more"] * (len(differing) > 12)
    return "\n  ".join(
        [
            f"{work_dir} holds {what}; it is left as it is.",
            *(f"{line}" for line in shown),
            "Choose --work-dir DIR (or another exp_name) for a new run,",
            "--resume-from auto to go on from them all the same, or --overwrite to remove them.",
        ]
    )
