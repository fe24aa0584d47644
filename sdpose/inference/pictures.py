"""What a user points at: an image, a folder of images, or a video; and who is on it."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from sdpose.data.images import read_image
from sdpose.documents import DocumentError, read_json
from sdpose.errors import UserError, how_to_install

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
VIDEOS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"})

MAX_BOX_FILE_BYTES = 2**30  # annotations of COCO train2017: 450 MB

Boxes = tuple[NDArray[np.float64], NDArray[np.float64]]  # [N,4] x, y, width, height; [N] scores


@dataclass(frozen=True)
class Picture:
    """One image file or video frame; pixels are (H, W, 3) uint8 RGB."""

    name: str  # of the file; of a frame: VIDEO.000123
    index: int
    image_id: int  # the number in the file's name, as COCO has it (else -1); of a frame: its index
    pixels: NDArray[np.uint8]


class Source:
    """Pictures one after the other; only one is in memory. `total` is None if it is not known."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_video = path.suffix.lower() in VIDEOS
        self.frames_per_second = 0.0
        self.total: int | None = None
        self._files: list[Path] = []
        if path.is_dir():
            self._files = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGES)
            if not self._files:
                raise UserError(f"{path} holds no images ({', '.join(sorted(IMAGES))})")
        elif not path.is_file():
            raise UserError(f"no such image, folder or video: {path}")
        elif self.is_video:
            with _video(path) as video:
                self.frames_per_second = video.get(cv2.CAP_PROP_FPS) or 25.0
                self.total = int(video.get(cv2.CAP_PROP_FRAME_COUNT)) or None
        else:
            self._files = [path]
        if not self.is_video:
            self.total = len(self._files)

    def __iter__(self) -> Iterator[Picture]:
        if not self.is_video:
            for index, path in enumerate(self._files):
                number = "".join(filter(str.isdigit, path.stem)) or "-1"
                yield Picture(path.name, index, int(number), read_image(path))
            return
        with _video(self.path) as video:
            index = 0
            while True:
                found, frame = video.read()
                if not found:
                    return
                rgb = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                name = f"{self.path.stem}.{index:06d}"
                yield Picture(name, index, index, np.asarray(rgb, np.uint8))
                index += 1


@contextlib.contextmanager
def _video(path: Path) -> Iterator[cv2.VideoCapture]:
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise UserError(f"{path} is no video that OpenCV can read")
        yield capture
    finally:
        capture.release()


class Detector(Protocol):
    """Says where persons are."""

    def __call__(self, picture: Picture) -> Boxes: ...


def whole_picture(picture: Picture) -> Boxes:
    height, width = picture.pixels.shape[:2]
    return np.array([[0.0, 0.0, width, height]]), np.ones(1)


class BoxFile:
    """Boxes of a COCO file: annotations, or a detector's results.

    A list of results names images by id alone: that is the number in the file's name
    (000000000139.jpg is image 139), or of the frame, from 0.
    """

    def __init__(self, path: Path) -> None:
        try:
            content = read_json(path, MAX_BOX_FILE_BYTES)
            names = {}
            rows = content
            if isinstance(content, dict):
                names = {int(image["id"]): str(image["file_name"]) for image in content["images"]}
                rows = content["annotations"]
            self._boxes: dict[str, list[tuple[list[float], float]]] = {}
            for row in rows:
                if row.get("category_id", 1) == 1 and not row.get("iscrowd"):
                    key = Path(names[row["image_id"]]).name if names else str(int(row["image_id"]))
                    box = [float(value) for value in row["bbox"]]
                    self._boxes.setdefault(key, []).append((box, float(row.get("score", 1.0))))
        except DocumentError:
            raise
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
            raise UserError(
                f"{path} holds no boxes ({type(error).__name__}: {error}); expected COCO "
                "annotations, or a list of {image_id, bbox: [x, y, width, height], score}"
            ) from None

    def __call__(self, picture: Picture) -> Boxes:
        rows = self._boxes.get(picture.name) or self._boxes.get(str(picture.image_id), [])
        rows = [(box, score) for box, score in rows if box[2] > 0 and box[3] > 0]
        boxes = np.array([box for box, _ in rows], np.float64).reshape(-1, 4)
        return boxes, np.array([score for _, score in rows], np.float64)


class TorchvisionDetector:
    """Faster R-CNN (ResNet-50 FPN v2) of torchvision, persons above `threshold`.

    weights: a file with its state dict; None: torchvision downloads them (COCO_V1, 167 MB).
    """

    def __init__(self, device: str, weights: Path | None = None, threshold: float = 0.5) -> None:
        if importlib.util.find_spec("torchvision") is None:
            raise UserError(f"--detector torchvision needs it: {how_to_install('detect')}")
        import torch
        from torchvision.models import detection

        build = detection.fasterrcnn_resnet50_fpn_v2
        try:
            if weights is None:
                kinds = detection.FasterRCNN_ResNet50_FPN_V2_Weights
                self._network = build(weights=kinds.COCO_V1)
            else:
                self._network = build(weights=None, weights_backbone=None)
                self._network.load_state_dict(torch.load(weights, weights_only=True))
        except OSError as error:  # no network, no file
            raise UserError(
                f"the detector's weights cannot be had: {error}; download "
                "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth elsewhere and give "
                "--detector-weights FILE, or give --boxes FILE"
            ) from None
        except RuntimeError:
            raise UserError(
                f"{weights} is no state dict of Faster R-CNN v2 (ResNet-50 FPN)"
            ) from None
        self._network.to(device).eval()
        self._device, self._threshold = device, threshold

    def __call__(self, picture: Picture) -> Boxes:
        import torch

        image = torch.from_numpy(picture.pixels).to(self._device).permute(2, 0, 1).float() / 255
        with torch.inference_mode():
            (found,) = self._network([image])
        chosen = (found["labels"] == 1) & (found["scores"] > self._threshold)
        boxes = found["boxes"][chosen].double().cpu().numpy()
        boxes[:, 2:] -= boxes[:, :2]
        return boxes, found["scores"][chosen].double().cpu().numpy()
