"""`sdpose predict`: pictures in, drawn pictures and COCO's keypoint results out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdpose.config.load import dump_yaml
from sdpose.errors import UserError
from sdpose.files import write_atomically
from sdpose.inference.boxes import Boxes, Detector
from sdpose.inference.draw import draw_poses
from sdpose.inference.estimator import PoseEstimator, Poses
from sdpose.inference.pictures import Picture, Source, write_picture
from sdpose.inference.video import VideoWriter

RESULTS = "results.json"
SKELETON = "skeleton.yaml"  # what the keypoints of the results are, as in an experiment


@dataclass(frozen=True)
class Prediction:
    out: Path
    pictures: int
    persons: int
    drawn: tuple[Path, ...]


def predict(
    estimator: PoseEstimator,
    source: Source,
    detector: Detector,
    out: Path,
    *,
    draw: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Prediction:
    """Writes OUT/results.json, OUT/skeleton.yaml and, drawn, a picture for each or OUT/<name>.mp4.

    Results are COCO's, with `file_name` beside `image_id`, which is the detector's. Pictures that
    cannot be read are passed over (`source.unreadable`). Memory does not grow with the length of a
    video, but for the results.

    Raises:
        UserError: OUT cannot be written, or no picture can be read.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from None
    if source.path.resolve() in (out.resolve(), (out / source.path.name).resolve()):
        raise UserError(f"{out} would replace what is read; choose another --out")
    results: list[dict[str, Any]] = []
    drawn: list[Path] = []
    video = None
    if draw and source.video is not None:
        path = out / f"{source.path.stem}.mp4"
        video = VideoWriter(path, source.video.frames_per_second)
        drawn.append(path)
    count = 0
    try:
        for picture in source:
            boxes = detector(picture)
            poses = estimator(picture.pixels, boxes.xywh, boxes.scores)
            count += 1
            results += _rows(picture, boxes, poses)
            if video is not None:
                video.write(draw_poses(picture.pixels, poses))
            elif draw:
                pixels = draw_poses(picture.pixels, poses)
                drawn.append(write_picture(out, picture.name, pixels))
            if progress and source.total:
                progress(count, max(count, source.total))
    finally:
        if video is not None:
            video.close()
    if not count:
        one, *more = source.unreadable
        raise UserError("\n  ".join(["no picture can be read:", one, *more]) if more else one)
    write_atomically(out / RESULTS, json.dumps(results) + "\n")
    skeleton = estimator.experiment.keypoints.model_dump(mode="json")
    write_atomically(out / SKELETON, dump_yaml({"skeleton": skeleton}))
    return Prediction(out, count, len(results), tuple(drawn))


def _rows(picture: Picture, boxes: Boxes, poses: Poses) -> list[dict[str, Any]]:
    return [
        {
            "image_id": boxes.image_id,
            "file_name": picture.name,
            "category_id": boxes.category_id,
            "keypoints": [round(float(v), 4) for v in keypoints.ravel()],
            "score": round(float(score), 6),
            "bbox": [round(float(v), 2) for v in box],
        }
        for keypoints, score, box in zip(poses.keypoints, poses.scores, poses.boxes, strict=True)
    ]
