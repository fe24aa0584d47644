"""The two splits of a dataset as an experiment reads them, and what is wrong with their images."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from sdpose.config import Experiment
from sdpose.data.coco import CocoAnnotations, load_annotations, load_detections
from sdpose.data.verify import MISSING, CheckedFiles, FileCheck
from sdpose.errors import UserError
from sdpose.files import write_atomically

SHOWN = 20  # unusable images named in a message; all of them are in a file that it names

HOW_TO_GET_COCO = """\
How to get COCO 2017 (https://cocodataset.org/#download): unpack into data_root
    annotations_trainval2017.zip (0.25 GB), train2017.zip (18 GB), val2017.zip (0.8 GB),
  or let it be fetched: sdpose prepare EXP --fetch http://images.cocodataset.org
  Data in another place: --data-root DIR. Another layout: data.train, data.val of the experiment.
  Without COCO: sdpose synth DIR writes a synthetic dataset."""


@dataclass(frozen=True)
class Split:
    ann_file: str  # relative to data_root, as the folder of the images
    img_prefix: str
    annotations: CocoAnnotations

    @property
    def image_names(self) -> list[str]:
        """Paths relative to data_root."""
        return [f"{self.img_prefix}/{name}" for name in self.annotations.file_names]

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


@dataclass(frozen=True)
class ValBoxes:
    file: str | None = None  # detections, relative to data_root; None = ground truth
    count: int = 0
    note: str = ""


def read_split(experiment: Experiment, name: str, problems: list[str]) -> Split | None:
    split = getattr(experiment.data, name)
    path = Path(experiment.data_root) / split.ann_file
    if not path.is_file():
        problems.append(f"data.{name}.ann_file not found: {path.absolute()}")
        return None
    try:
        return Split(split.ann_file, split.img_prefix, load_annotations(path))
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
    return ValBoxes(cfg.bbox_file, count, "; ".join(notes))


def describe_unusable(unusable: dict[str, str], num_images: int, files: CheckedFiles) -> str:
    """One problem: all unusable images, by reason, the first ones by name."""
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
    lines.append("  Restore these files, or leave them out: --set data.on_corrupt=skip")
    return "\n  ".join(lines)
