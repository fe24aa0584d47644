"""Where persons are on a picture: by a file of boxes, by a detector, or all over it."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sdpose.documents import DocumentError, read_json
from sdpose.errors import UserError, how_to_install
from sdpose.inference.pictures import Picture
from sdpose.models.weights import read_torch_file

MAX_BOX_FILE_BYTES = 2**30  # annotations of COCO train2017: 450 MB


@dataclass(frozen=True)
class Boxes:
    """Of the persons on one picture."""

    xywh: NDArray[np.float64]
    """[N,4]: x, y, width, height."""
    scores: NDArray[np.float64]
    """[N]"""
    image_id: int
    """What results call the picture."""


class Detector(Protocol):
    """Says where persons are."""

    def __call__(self, picture: Picture) -> Boxes: ...


def whole_picture(picture: Picture) -> Boxes:
    height, width = picture.pixels.shape[:2]
    return Boxes(np.array([[0.0, 0.0, width, height]]), np.ones(1), picture.image_id)


class BoxFile:
    """Boxes of a COCO file: annotations, or a detector's results.

    Annotations name images, so that results get their ids. A list of results has ids alone: that is
    the number in the file's name (000000000139.jpg is image 139), or of the frame, from 0.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ids: dict[str, list[int]] = {}  # of annotated images, by the file's name
        self._has_names = False
        self._boxes: dict[int, list[tuple[list[float], float]]] = {}
        self._pictures: dict[int, str] = {}  # that have been asked for
        try:
            content = read_json(path, MAX_BOX_FILE_BYTES)
            rows = content
            if isinstance(content, dict):
                self._has_names = True
                for image in content["images"]:
                    name = Path(str(image["file_name"])).name
                    self._ids.setdefault(name, []).append(int(image["id"]))
                rows = content["annotations"]
            for row in rows:
                if row.get("category_id", 1) == 1 and not row.get("iscrowd"):
                    found = _box(row["bbox"]), _finite(row.get("score", 1.0))
                    self._boxes.setdefault(int(row["image_id"]), []).append(found)
        except DocumentError:
            raise
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
            raise UserError(
                f"{path} holds no boxes ({type(error).__name__}: {error}); expected COCO "
                "annotations, or a list of {image_id, bbox: [x, y, width, height], score}"
            ) from None

    def __call__(self, picture: Picture) -> Boxes:
        image_id = self._id_of(picture)
        rows = self._boxes.get(image_id, [])
        rows = [(box, score) for box, score in rows if box[2] > 0 and box[3] > 0]
        if rows:
            other = self._pictures.setdefault(image_id, picture.name)
            if other != picture.name:
                raise UserError(
                    f"{self._path}: {other} and {picture.name} are both image {image_id}; give "
                    "annotations that name the files (images: [{id, file_name}])"
                )
        boxes = np.array([box for box, _ in rows], np.float64).reshape(-1, 4)
        return Boxes(boxes, np.array([score for _, score in rows], np.float64), image_id)

    def _id_of(self, picture: Picture) -> int:
        if not self._has_names:
            return picture.number
        ids = self._ids.get(picture.name) or [picture.number]
        if len(ids) > 1:
            raise UserError(
                f"{self._path}: {picture.name} is the file of several images "
                f"({', '.join(map(str, ids[:3]))}); only one can be meant"
            )
        return ids[0]


def _box(value: Any) -> list[float]:
    box = [_finite(number) for number in value]
    if len(box) != 4:
        raise ValueError(f"a bbox has 4 numbers, not {len(box)}")
    return box


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is not a finite number")
    return number


class TorchvisionDetector:
    """Faster R-CNN (ResNet-50 FPN v2) of torchvision, persons above `threshold`.

    weights: a file with its state dict; None: torchvision's are downloaded (COCO_V1, 167 MB).
    """

    def __init__(self, device: str, weights: Path | None = None, threshold: float = 0.5) -> None:
        if importlib.util.find_spec("torchvision") is None:
            raise UserError(f"--detector torchvision needs it: {how_to_install('detect')}")
        from torchvision.models import detection

        url = detection.FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1.url
        state = published_weights(url) if weights is None else read_torch_file(weights)
        self._network = detection.fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None)
        try:
            self._network.load_state_dict(state)
        except (RuntimeError, TypeError, AttributeError):
            raise UserError(
                f"{weights or url} is no state dict of Faster R-CNN v2 (ResNet-50 FPN)"
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
        return Boxes(boxes, found["scores"][chosen].double().cpu().numpy(), picture.image_id)


def published_weights(url: str) -> dict[str, Any]:
    """The state dict at a URL, from torch's cache if it is there.

    torch.hub would unpickle the file as code, and believe one of this name in its cache unchecked.
    """
    import torch

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / url.rpartition("/")[2]
    try:
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            prefix = path.stem.rpartition("-")[2]  # of its SHA-256: compared by torch.hub
            torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix)
    except (OSError, RuntimeError) as error:  # no network; another digest
        raise UserError(
            f"the detector's weights cannot be downloaded: {error}; download {url} elsewhere and "
            "give --detector-weights FILE, or give --boxes FILE"
        ) from None
    return read_torch_file(path)
