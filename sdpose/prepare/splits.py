"""The two splits of a dataset as an experiment reads them, and what is wrong with their images."""

from __future__ import annotations

import contextlib
import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdpose.config import Experiment
from sdpose.config.schema.data import TrainSplit, ValSplit
from sdpose.data.coco import CocoAnnotations, load_annotations
from sdpose.data.detections import load_detections
from sdpose.data.person_rules import describe_left_out, lost_persons
from sdpose.errors import UserError
from sdpose.files import write_atomically
from sdpose.prepare.plausibility import odd_boxes, odd_coordinates
from sdpose.prepare.spelling import other_spellings
from sdpose.prepare.verify import MISSING, CheckedFiles, FileCheck

SHOWN = 20  # unusable images named in a message; all of them are in a file that it names

_HOW_TO_GET_COCO = """\
How to get COCO 2017 (https://cocodataset.org/#download): unpack into data_root
    annotations_trainval2017.zip (0.25 GB), train2017.zip (18 GB), val2017.zip (0.8 GB),
  or let it be fetched: sdpose prepare EXP --fetch http://images.cocodataset.org
  Data in another place: --data-root DIR. Another layout: data.train, data.val of the experiment.
  Without COCO: sdpose synth DIR writes a synthetic dataset."""


_SWAPPED = re.compile(r"(\d+) x (\d+) pixels as shown, annotated as \2 x \1$")
_ELSEWHERE = (
    "Data in another place: --data-root DIR. Another layout: data.train, data.val of the experiment"
)


@dataclass(frozen=True)
class Split:
    ann_file: str  # relative to data_root, as the folder of the images
    img_prefix: str
    annotations: CocoAnnotations

    @property
    def image_names(self) -> list[str]:
        """Paths relative to data_root; absolute where the annotation file's are."""
        return [posixpath.join(self.img_prefix, name) for name in self.annotations.file_names]

    def unusable(self, checks: dict[str, FileCheck]) -> dict[str, str]:
        """Why which image (relative to data_root) cannot be used."""
        reasons: dict[str, str] = {}
        sizes = self.annotations.image_sizes_wh.tolist()
        for name, (width, height) in zip(self.image_names, sizes, strict=True):
            check = checks[name]
            if check.error:
                reasons[name] = check.error
            elif (check.width, check.height) != (width, height):
                reasons[name] = (
                    f"{check.width} x {check.height} pixels as shown, annotated as "
                    f"{width} x {height}"
                )
        return reasons

    def usable(self, unusable: dict[str, str]) -> CocoAnnotations:
        columns = zip(self.image_names, self.annotations.file_names, strict=True)
        return self.annotations.without_images([file for name, file in columns if name in unusable])

    def warnings(self, unusable: dict[str, str]) -> list[str]:
        """What a training would go on with, though it is hardly meant."""
        used = self.usable(unusable)
        lost = lost_persons(used.left_out(), used.person_category["id"])
        blind = int((used.persons().visible.max(axis=1) == 0).sum())
        if blind:
            lost.append(
                f"{blind} persons have no joint with v > 0 and teach nothing, though num_keypoints "
                "counts some: write v as 2 (visible) or 1 (hidden)"
            )
        return [*lost, *odd_coordinates(used)]

    def without_persons(self, unusable: dict[str, str]) -> str:
        """Why nobody is there to train on or to evaluate."""
        used = self.usable(unusable)
        counts = used.left_out()
        reasons = [describe_left_out(counts)]
        lost = [name for name in self.image_names if name in unusable]
        if lost:
            example = f"{lost[0]}: {unusable[lost[0]]}"
            reasons.append(f"{len(lost)} of {len(self.image_names)} images left out ({example})")
        why = ", ".join(filter(None, reasons)) or "it has no annotations"
        lines = [f"{used.path}: no person with keypoints in any usable image: {why}"]
        return "\n    ".join([*lines, *lost_persons(counts, used.person_category["id"])])


@dataclass(frozen=True)
class ValBoxes:
    file: str | None = None  # detections, relative to data_root; None = ground truth
    count: int = 0
    note: str = ""


def once(texts: Iterable[tuple[str, str]]) -> list[str]:
    """(file, text) as lines: what is true of several files is said once."""
    files: dict[str, list[str]] = {}
    for file, text in texts:
        files.setdefault(text, []).append(file)
    return [f"{', '.join(named)}: {text}" for text, named in files.items()]


def how_to_get_data(experiment: Experiment) -> str:
    """What to do about files that are not there: where COCO comes from, if it is COCO's."""
    data = experiment.data
    is_coco = (data.train, data.val) == (TrainSplit(), ValSplit())
    return _HOW_TO_GET_COCO if is_coco else _ELSEWHERE


def missing_data(experiment: Experiment) -> str:
    """The first thing of a dataset that is not there, in a moment; "" if all may be well."""
    root = Path(experiment.data_root)
    if not root.is_dir():
        return f"data_root is not a folder: {root.absolute()}"
    for name in ("train", "val"):
        path = root / getattr(experiment.data, name).ann_file
        if not path.is_file():
            return f"data.{name}.ann_file not found: {path.absolute()}"
    return ""


def read_split(experiment: Experiment, name: str, problems: list[str]) -> Split | None:
    split = getattr(experiment.data, name)
    path = Path(experiment.data_root) / split.ann_file
    if not path.is_file():
        there = other_spellings(path.parent, [path.name], "").get(path.name)
        hint = f" ({there[0]} is there: {there[1]})" if there else ""
        problems.append(f"data.{name}.ann_file not found: {path.absolute()}{hint}")
        return None
    try:
        return Split(split.ann_file, split.img_prefix, load_annotations(path, experiment.keypoints))
    except UserError as error:
        problems.append(str(error).replace("\n", "\n  "))
        return None


def val_boxes(
    experiment: Experiment, val: Split | None, unusable: dict[str, str], problems: list[str]
) -> ValBoxes:
    cfg = experiment.data_cfg
    if cfg.use_gt_bbox or not val:
        return ValBoxes()
    path = Path(experiment.data_root) / cfg.bbox_file
    if not path.is_file():
        return ValBoxes(
            note=f"no detection file {path}: the pipeline evaluates on ground-truth boxes, "
            "`sdpose test` needs --use-gt-bbox"
        )
    try:
        detections = load_detections(path, val.annotations, cfg.det_bbox_thr)
    except UserError as error:
        problems.append(str(error).replace("\n", "\n  "))
        return ValBoxes()
    left_out = {
        "of images that are not in the val annotations": detections.num_other_images,
        "without width or height": detections.num_empty,
    }
    notes = [f"{count} detections {what} are not used" for what, count in left_out.items() if count]
    names = val.image_names
    count = sum(names[index] not in unusable for index in detections.image_index)
    odd = odd_boxes(
        detections.boxes_xywh, val.annotations.image_sizes_wh[detections.image_index].astype(float)
    )
    if odd:
        notes.append(f"{path.name}: {odd}")
    return ValBoxes(cfg.bbox_file, count, "; ".join(notes))


def describe_unusable(
    unusable: dict[str, str], splits: Sequence[Split], files: CheckedFiles
) -> str:
    """One problem: all unusable images of the splits, by reason, the first ones by name."""
    num_images = len({name for split in splits for name in split.image_names})
    lines = [f"{len(unusable)} of {num_images} images are unusable:"]
    missing = [name for name, reason in unusable.items() if reason == MISSING]
    shown = list(unusable.items())
    if len(missing) > SHOWN:
        folders = sorted({str(Path(name).parent) for name in missing})
        lines.append(
            f"  {len(missing)} files not found in {', '.join(folders[:5])}, {missing[0]} for one"
        )
        shown = [(name, reason) for name, reason in shown if reason != MISSING]
    lines += [f"  {name}: {reason}" for name, reason in shown[:SHOWN]]
    hidden = len(shown) - SHOWN
    if hidden > 0 or len(missing) > SHOWN:
        path = files.record_path.with_suffix(".unusable.txt")
        text = "".join(f"{name}: {reason}\n" for name, reason in unusable.items())
        with contextlib.suppress(UserError):
            write_atomically(path, text, durable=False)
            lines.append(f"  {f'and {hidden} more; ' if hidden > 0 else ''}all of them: {path}")
    lines += _spelled_otherwise(missing, splits, files.root)
    swapped = sum(bool(_SWAPPED.match(reason)) for reason in unusable.values())
    if swapped:
        lines.append(
            f"  {swapped} of them have width and height swapped in the annotations, or are "
            "of the pixels before their EXIF orientation is applied: correct the annotations"
        )
    lines.append("  Restore these files, or leave them out: --set data.on_corrupt=skip")
    return "\n  ".join(lines)


def _spelled_otherwise(missing: list[str], splits: Sequence[Split], root: Path) -> list[str]:
    """One line for all missing files that differ from one that is there in the same way."""
    wanted = frozenset(missing)
    examples: dict[str, dict[str, str]] = {}
    for split in splits:
        names = [name for name in split.image_names if name in wanted]
        for name, (there, difference) in other_spellings(root, names, split.img_prefix).items():
            examples.setdefault(difference, {})[name] = there
    lines = []
    for difference, names_there in examples.items():
        name, there = next(iter(names_there.items()))
        lines.append(
            f"  {len(names_there)} of them are there under another name ({difference}): {name} is "
            f"{there}; write file_name in the annotations as the files are named"
        )
    return lines
