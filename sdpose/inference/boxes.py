"""Where persons are on a picture: by a detector, or all over it (by a file: `box_file`)."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sdpose.errors import UserError, how_to_install
from sdpose.inference.pictures import Picture
from sdpose.models.weights import read_torch_file

PERSON = 1  # COCO's category


@dataclass(frozen=True)
class Boxes:
    """Of the persons on one picture."""

    xywh: NDArray[np.float64]
    """[N,4]: x, y, width, height."""
    scores: NDArray[np.float64]
    """[N]"""
    image_id: int
    """What results call the picture."""
    category_id: int = PERSON
    """What results call a person."""


class Detector(Protocol):
    """Says where persons are."""

    def __call__(self, picture: Picture) -> Boxes: ...


def whole_picture(picture: Picture) -> Boxes:
    height, width = picture.pixels.shape[:2]
    return Boxes(np.array([[0.0, 0.0, width, height]]), np.ones(1), picture.image_id)


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
