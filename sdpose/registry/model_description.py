"""The description of a model in a manifest: enough to run its weights without this repository."""

from __future__ import annotations

from typing import Any

from sdpose.config import Experiment

# ImageNet's, as sdpose.data.images has them (importing that would import OpenCV here).
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def describe(experiment: Experiment) -> dict[str, Any]:
    """Architecture, input, output and decoding of an experiment's model, as JSON values."""
    model, data, skeleton = experiment.model, experiment.data_cfg, experiment.keypoints
    width, height = data.image_size
    return {
        "architecture": {
            "paper": "SDPose, CVPR 2024, arXiv:2404.03518",
            "backbone": model.backbone.model_dump(mode="json"),
            "transformer": model.keypoint_head.tokenpose_cfg.model_dump(mode="json"),
            "inference": "the first of cycle_num cycles alone",
        },
        "input": {
            "shape": ["N", 3, height, width],
            "dtype": "float32",
            "colour_order": "RGB",
            "scaling": "(value / 255 - mean) / std",
            "mean": list(MEAN),
            "std": list(STD),
            "crop": (
                "the box, widened to the aspect ratio of the input, times padding, around its "
                "centre; affine, bilinear, black outside"
            ),
            "padding": experiment.train_pipeline.padding,
            "pixel_convention": "pixel centres have whole coordinates; a crop of width w spans w",
        },
        "output": {
            "shape": ["N", skeleton.num_keypoints, data.heatmap_size[1], data.heatmap_size[0]],
            "meaning": f"a Gaussian of height 1, sigma {data.sigma} heatmap pixels, at the joint",
            "input_pixels_per_heatmap_pixel": [
                width / data.heatmap_size[0],
                height / data.heatmap_size[1],
            ],
            "decoding": model.test_cfg.model_dump(mode="json"),
        },
        "keypoints": {
            "names": list(skeleton.keypoints),
            "flip_index": list(skeleton.flip_index),
            "limbs": [list(limb) for limb in skeleton.limb_indices],
            "oks_sigmas": list(skeleton.sigmas),
        },
    }
