"""A check of the dataset that takes seconds: the files are there, and some of them decode.

`prepare_coco` reads every byte, for minutes the first time; this is for the moment before a run.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sdpose.config import Experiment
from sdpose.data.person_rules import describe_left_out
from sdpose.files import matching
from sdpose.prepare.splits import (
    Split,
    describe_unusable,
    how_to_get_data,
    once,
    read_split,
    val_boxes,
)
from sdpose.prepare.verify import MISSING, CheckedFiles, FileCheck

DECODED = 64  # images of each split, evenly spread
_THREADS = 16  # a file system on the network answers many at once


@dataclass(frozen=True)
class QuickCheck:
    """lines: what was seen, for people. problems: what is wrong, and what to do. warnings: what a
    training would go on with, though hardly meant. pack: the folder and size in bytes of the
    training pack that `prepare_coco` is going to make, if any."""

    lines: tuple[str, ...]
    problems: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...] = ()
    pack: tuple[Path, int] | None = None


def quick_check(experiment: Experiment) -> QuickCheck:
    """Annotations are read whole, every image is looked for, some are decoded."""
    root = Path(experiment.data_root)
    if not root.is_dir():
        what = f"data_root is not a folder: {root.absolute()}"
        return QuickCheck((), ((what, how_to_get_data(experiment)),))
    texts: list[str] = []
    splits = {name: read_split(experiment, name, texts) for name in ("train", "val")}
    remedy = how_to_get_data(experiment)
    problems = [(text, remedy if " not found: " in text else "") for text in texts]
    files, lines, warnings = CheckedFiles(root), [], []
    for name, split in splits.items():
        if split is None:
            continue
        checks, decoded, size = _look(split, files)
        unusable = split.unusable(checks)
        if unusable and experiment.data.on_corrupt == "fail":
            what, _, remedy = describe_unusable(unusable, [split], files).rpartition("\n")
            problems.append((what, remedy.strip()))
        persons = len(split.usable(unusable).persons())
        if not persons and (not unusable or experiment.data.on_corrupt == "skip"):
            problems.append((split.without_persons(unusable), ""))
        else:
            remarks = (*split.warnings(unusable), *split.annotations.notes)
            warnings += [(split.ann_file, text) for text in remarks]
        boxes = ""
        if name == "val":
            found = val_boxes(experiment, split, unusable, texts := [])
            problems += [(text, "") for text in texts]
            boxes = f", boxes of {found.file or 'the annotations'}"
            boxes += f" ({found.note})" if found.note else ""
        left_out = f", {len(unusable)} unusable left out" if unusable else ""
        others = describe_left_out(split.usable(unusable).left_out())
        left_out += f" (annotations left out: {others})" if others else ""
        lines.append(
            f"data.{name}: {len(checks)} images ({size / 1e9:.2f} GB) with {persons} persons are "
            f"there, {decoded} of them decoded{left_out}{boxes}"
        )
    pack = _pack_to_make(experiment, splits["train"])
    return QuickCheck(tuple(lines), tuple(problems), tuple(once(warnings)), pack)


def _pack_to_make(experiment: Experiment, train: Split | None) -> tuple[Path, int] | None:
    packs = Path(experiment.data.pack_dir or f"{experiment.data_root}/packs")
    is_local = "://" not in str(experiment.data.pack_dir)
    if train is None or experiment.data.pipeline != "fast" or not is_local:
        return None
    if matching(packs, "*/manifest.json"):
        return None
    photos = set(train.annotations.persons().image_index.tolist())
    sizes = train.annotations.image_sizes_wh[sorted(photos)].astype(int)
    return packs, int(3 * sizes.prod(axis=1).sum())


def _look(split: Split, files: CheckedFiles) -> tuple[dict[str, FileCheck], int, int]:
    """By name what is known of each image; how many were decoded; bytes of all."""
    names = split.image_names
    with ThreadPoolExecutor(_THREADS) as pool:
        sizes = list(pool.map(partial(_size, files.root), names, chunksize=256))
    annotated = split.annotations.image_sizes_wh.tolist()
    checks = {}
    for name, size, (width, height) in zip(names, sizes, annotated, strict=True):
        error = MISSING if size is None else "the file is empty" if not size else ""
        checks[name] = FileCheck("", width, height, error)
    present = [name for name, size in zip(names, sizes, strict=True) if size]
    count = min(DECODED, len(present))
    some = [present[i * len(present) // count] for i in range(count)]
    checks |= zip(some, files.images(some, lambda done, total: None), strict=True)
    return checks, len(some), sum(filter(None, sizes))


def _size(root: Path, name: str) -> int | None:
    try:
        return (root / name).stat().st_size
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return None
