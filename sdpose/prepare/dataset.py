"""Checks a COCO dataset before hours are spent on it, gives it a digest, and has it packed.

The digest names the content: it is the sha256 of the digests of the annotation files, of every
image that they list, and of the detection file if the experiment uses one. Any byte of these
changes it; where the dataset lies, file times and other files do not.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sdpose.config import Experiment
from sdpose.data.auto_skeleton import with_skeleton
from sdpose.data.person_rules import describe_left_out
from sdpose.errors import UserError
from sdpose.files import sha256_of_file
from sdpose.prepare.pack_builder import Source, prepare_pack
from sdpose.prepare.splits import (
    Split,
    describe_unusable,
    how_to_get_data,
    once,
    read_split,
    val_boxes,
)
from sdpose.prepare.verify import MISSING, CheckedFiles, FileCheck
from sdpose.progress_bar import ConsoleProgress


@dataclass(frozen=True)
class PreparedDataset:
    """A dataset that passed the checks."""

    data_root: Path
    digest: str  # sha256, hex
    num_train_images: int
    num_train_persons: int
    num_val_images: int
    num_val_persons: int
    num_val_boxes: int
    bbox_source: Literal["detections", "ground truth"]
    corrupt: tuple[str, ...]  # images left out (data.on_corrupt: skip), relative to data_root
    licenses: dict[str, int]  # number of images under each licence that the annotations name
    left_out: dict[str, dict[str, int]]  # by split: annotations that no person is made of, and why
    warnings: tuple[str, ...]  # what is hardly meant, with the remedy
    note: str  # what the user should know; lines; may be empty
    pack: str | None  # where the training pack is (data.pipeline: fast)

    def summary(self) -> str:
        lines = [
            f"dataset  {self.data_root.absolute()}",
            f"train    {self.num_train_images} images, {self.num_train_persons} persons",
            f"val      {self.num_val_images} images, {self.num_val_persons} persons, "
            f"{self.num_val_boxes} boxes ({self.bbox_source})",
            *(f"licence  {count} images: {name}" for name, count in self.licenses.items()),
            *self.remarks(),
            *([f"pack     {self.pack}"] if self.pack else []),
            *([f"left out {len(self.corrupt)} unusable images"] if self.corrupt else []),
            f"digest   {self.digest}",
        ]
        return "\n".join(lines)

    def remarks(self) -> list[str]:
        """What the user should know before a training, a line each."""
        return [
            *(
                f"left out {name}: {describe_left_out(counts)}"
                for name, counts in self.left_out.items()
                if counts
            ),
            *(f"warning  {text}" for text in self.warnings),
            *(f"note     {text}" for text in self.note.splitlines()),
        ]


def prepare_coco(
    experiment: Experiment,
    *,
    with_pack: bool = True,
    pack_into: Callable[[Source, str], str] = prepare_pack,
    progress: Callable[[int, int], None] | None = None,
) -> PreparedDataset:
    """Checks everything that the experiment reads from its data_root, and packs what it trains on.

    Annotation files are complete and consistent; every image that they list is there, decodes and
    has the size that they say; the detection file, if it is wanted and there, fits them.
    with_pack: with data.pipeline `fast`, makes the pack if it is not there and whole.
    pack_into: does it, given what is packed and data.pack_dir; `pack_store.prepare_pack` knows
        stores, too.
    progress: called with (images looked at, images); default: shown on stderr.
    Raises UserError with all problems at once. With data.on_corrupt `skip`, images that are
    missing, do not decode or have another size are no problem but left out.
    """
    root = Path(experiment.data_root)
    if not root.is_dir():
        remedy = how_to_get_data(experiment)
        raise UserError(f"data_root is not a folder: {root.absolute()}\n  {remedy}")
    experiment = with_skeleton(experiment)
    problems: list[str] = []
    splits = {name: read_split(experiment, name, problems) for name in ("train", "val")}
    found = [split for split in splits.values() if split]
    files = CheckedFiles(root)
    names = list(dict.fromkeys(name for split in found for name in split.image_names))
    with contextlib.ExitStack() as stack:
        if progress is None:
            progress = stack.enter_context(ConsoleProgress("checking images", "images"))
        checks = dict(zip(names, files.images(names, progress), strict=True))
    unusable: dict[str, str] = {}
    for split in found:
        unusable |= split.unusable(checks)
    if unusable and experiment.data.on_corrupt == "fail":
        problems.append(describe_unusable(unusable, found, files))
    num_persons = [len(split.usable(unusable).persons()) for split in found]
    if 0 in num_persons and not problems:
        problems += [
            split.without_persons(unusable)
            for split, count in zip(found, num_persons, strict=True)
            if not count
        ]
    train, val = splits["train"], splits["val"]
    boxes = val_boxes(experiment, val, unusable, problems)
    chosen = experiment.evaluation.save_best
    if val and chosen not in (None, "AP"):
        from sdpose.evaluation.metrics import why_not_reported  # imports PyTorch

        reason = why_not_reported(chosen, val.annotations, on_detections=bool(boxes.file))
        problems += [f"evaluation.save_best: {reason}; or set it to AP"] if reason else []
    if problems or not train or not val:
        absent = MISSING in unusable.values() or any("ann_file not found" in p for p in problems)
        advice = [how_to_get_data(experiment)] if absent else []
        raise UserError("\n  ".join([f"{root.absolute()}: not usable", *problems, *advice]))
    notes = [(split.ann_file, text) for split in found for text in split.annotations.notes]
    pack = None
    if with_pack and experiment.data.pipeline == "fast":
        packs = experiment.data.pack_dir or str(root / "packs")
        pack = pack_into(_pack_source(train, unusable, checks, files), packs)
    return PreparedDataset(
        data_root=root,
        digest=_digest([train, val], boxes.file, checks, files),
        num_train_images=len(train.usable(unusable).file_names),
        num_train_persons=num_persons[0],
        num_val_images=len(val.usable(unusable).file_names),
        num_val_persons=num_persons[1],
        num_val_boxes=boxes.count if boxes.file else num_persons[1],
        bbox_source="detections" if boxes.file else "ground truth",
        corrupt=tuple(unusable),
        licenses=_count_licenses(found),
        left_out={
            name: split.usable(unusable).left_out()
            for name, split in (("train", train), ("val", val))
        },
        warnings=tuple(
            once((split.ann_file, text) for split in found for text in split.warnings(unusable))
        ),
        note="\n".join([*once(notes), *filter(None, [boxes.note])]),
        pack=pack,
    )


def _pack_source(
    train: Split,
    unusable: dict[str, str],
    checks: dict[str, FileCheck],
    files: CheckedFiles,
) -> Source:
    columns = zip(train.annotations.file_names, train.image_names, strict=True)
    return Source(
        annotations=train.usable(unusable),
        annotations_sha256=files.file(train.ann_file).sha256,
        image_dir=files.root / train.img_prefix,
        image_sha256={file: checks[name].sha256 for file, name in columns},
    )


def weights_digest(experiment: Experiment) -> str:
    """SHA-256 over the weight files that training starts from, in hex; empty if it names none.

    `resume_from: auto` names no file.
    Raises UserError if a file cannot be read.
    """
    named = {
        "load_from": experiment.load_from,
        "resume_from": experiment.resume_from,
        "model.pretrained": experiment.model.pretrained,
    }
    lines = []
    for key, path in named.items():
        if not path or path == "auto":
            continue
        try:
            content = sha256_of_file(Path(path))
        except OSError as error:
            raise UserError(f"{key}: cannot read {path}: {error.strerror}") from None
        lines.append(f"{key} {content}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest() if lines else ""


def unusable_images(experiment: Experiment, split: Literal["train", "val"]) -> frozenset[str]:
    """File names, as in the annotation file, that training and evaluation leave out.

    Empty unless data.on_corrupt is `skip`. What `prepare_coco` found is looked up where its record
    is at hand ($SDPOSE_CACHE), else the images are looked at again.
    """
    if experiment.data.on_corrupt == "fail":
        return frozenset()
    problems: list[str] = []
    found = read_split(experiment, split, problems)
    if not found:
        raise UserError("\n  ".join(problems))
    files = CheckedFiles(Path(experiment.data_root))
    with ConsoleProgress(f"checking {split} images", "images") as progress:
        checks = files.images(found.image_names, progress)
    unusable = found.unusable(dict(zip(found.image_names, checks, strict=True)))
    return frozenset(found.annotations.file_names) - frozenset(found.usable(unusable).file_names)


def _digest(
    splits: list[Split], bbox_file: str | None, checks: dict[str, FileCheck], files: CheckedFiles
) -> str:
    digest = hashlib.sha256(b"sdpose dataset 1\n")
    for name, split in zip(("train", "val"), splits, strict=True):
        digest.update(f"{name} {files.file(split.ann_file).sha256}\n".encode())
        for image_name in split.image_names:  # in the annotation file's order
            digest.update(f"image {checks[image_name].sha256 or 'unreadable'}\n".encode())
    if bbox_file:
        digest.update(f"detections {files.file(bbox_file).sha256}\n".encode())
    files.save()
    return digest.hexdigest()


def _count_licenses(splits: list[Split]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for split in splits:
        table = split.annotations.licenses
        for key, count in Counter(split.annotations.image_licenses.tolist()).items():
            counts[table.get(key, "not stated")] += count
    return dict(counts.most_common())
