"""SDPose: small, accurate human-pose transformers trained by self-distillation."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from sdpose.inference import PoseEstimator

__version__ = "0.1.0"


def load(
    model: str | Path,
    *,
    exp: str | None = None,
    device: str | None = None,
    trust: bool = False,
    public_key: str | Path | None = None,
    allow_older: bool = False,
) -> PoseEstimator:
    """A model, ready for images: `sdpose.load("best_AP_epoch_50.pth")("photo.jpg", boxes)`.

    See `sdpose.inference.load`. PyTorch is imported here, not with `sdpose`.
    """
    from sdpose.inference import load as load_model

    return load_model(
        model, exp=exp, device=device, trust=trust, public_key=public_key, allow_older=allow_older
    )
