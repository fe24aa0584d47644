"""`sdpose predict`: pictures in, drawn pictures and COCO's keypoint results out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sdpose.errors import UserError
from sdpose.inference.boxes import Detector
from sdpose.inference.draw import draw_poses
from sdpose.inference.estimator import PoseEstimator
from sdpose.inference.pictures import Picture, Source

RESULTS = "results.json"
PERSON = 1  # COCO's category


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
    """Writes OUT/results.json and, drawn, OUT/<name of each image> or OUT/<name>.mp4.

    Results are COCO's, with `file_name` beside `image_id`. That is the id of a file of boxes;
    without one, the number in the file's name if that tells all pictures apart, else the position,
    from 0. Memory does not grow with the length of a video, but for the results.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from None
    if source.path.resolve() in (out.resolve(), (out / source.path.name).resolve()):
        raise UserError(f"{out} would replace what is read; choose another --out")
    results: list[dict[str, Any]] = []
    drawn: list[Path] = []
    video = _VideoFile(out / f"{source.path.stem}.mp4", source.frames_per_second)
    count = 0
    try:
        for picture in source:
            boxes = detector(picture)
            poses = estimator(picture.pixels, boxes.xywh, boxes.scores)
            count += 1
            results += [
                {
                    "image_id": boxes.image_id,
                    "file_name": picture.name,
                    "category_id": PERSON,
                    "keypoints": [round(float(v), 4) for v in keypoints.ravel()],
                    "score": round(float(score), 6),
                    "bbox": [round(float(v), 2) for v in box],
                }
                for keypoints, score, box in zip(
                    poses.keypoints, poses.scores, poses.boxes, strict=True
                )
            ]
            if draw:
                pixels = draw_poses(picture.pixels, poses)
                if source.is_video:
                    video.write(pixels)
                else:
                    drawn.append(_write_image(out, picture, pixels))
            if progress and source.total:
                progress(count, max(count, source.total))
    finally:
        video.close()
    if video.path.is_file() and source.is_video and draw:
        drawn.append(video.path)
    if not count:
        raise UserError(f"{source.path} has no frame that OpenCV can decode")
    (out / RESULTS).write_text(json.dumps(results) + "\n", encoding="utf-8")
    return Prediction(out, count, len(results), tuple(drawn))


def _write_image(out: Path, picture: Picture, pixels: NDArray[np.uint8]) -> Path:
    path = out / picture.name
    if not cv2.imwrite(str(path), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)):
        raise UserError(f"cannot write {path}")
    return path


class _VideoFile:
    """MPEG-4, opened with the first frame, whose size it takes."""

    def __init__(self, path: Path, frames_per_second: float) -> None:
        self.path = path
        self._rate = frames_per_second
        self._writer: Any = None

    def write(self, pixels: NDArray[np.uint8]) -> None:
        if self._writer is None:
            size = (pixels.shape[1], pixels.shape[0])
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self.path), code, self._rate, size)
            if not self._writer.isOpened():
                raise UserError(f"cannot write {self.path}: this OpenCV has no MPEG-4 encoder")
        self._writer.write(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()
