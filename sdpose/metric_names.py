"""The names of an evaluation's metrics; a result has those of its dataset and no others.

Imports nothing: reading the results of a run must not require PyTorch.
"""

from __future__ import annotations

# COCOeval.stats for keypoints, in its order; the names are mmpose's.
METRIC_NAMES = (
    "AP",
    "AP .5",
    "AP .75",
    "AP (M)",
    "AP (L)",
    "AR",
    "AR .5",
    "AR .75",
    "AR (M)",
    "AR (L)",
)

# CrowdPose: AP of easy, medium and hard images. Here, M is a crowd level and no area.
OF_CROWDPOSE = (
    *("AP", "AP .5", "AP .75", "AR", "AR .5", "AR .75"),
    *("AP (E)", "AP (M)", "AP (H)"),
)
PARTS_OF_WHOLEBODY = ("body", "foot", "face", "left hand", "right hand")
OF_PARTS = tuple(f"{metric} ({part})" for part in PARTS_OF_WHOLEBODY for metric in ("AP", "AR"))

# What tables of runs show, in this order, as far as the runs have it. COCO's runs: the first six
# without E and H.
SHOWN = (
    *("AP", "AP .5", "AP .75", "AP (E)", "AP (M)", "AP (H)", "AP (L)", "AR"),
    *(f"AP ({part})" for part in PARTS_OF_WHOLEBODY),
    *("PCK", "PCKh"),
)
