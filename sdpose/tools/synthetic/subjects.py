"""What `sdpose synth` draws: one subject for each name of `--skeleton`."""

from __future__ import annotations

from dataclasses import dataclass

from sdpose.config.schema import COCO, Skeleton
from sdpose.config.schema.skeleton import preset
from sdpose.tools.synthetic.animal import sample_animal
from sdpose.tools.synthetic.hand import ANNOTATED_PARTS, sample_hand
from sdpose.tools.synthetic.person import sample_figure
from sdpose.tools.synthetic.scene import Layout, Sampler


@dataclass(frozen=True)
class Subject:
    """A category of a synthetic dataset, how it is drawn, and what its annotations have."""

    category: str
    supercategory: str
    skeleton: Skeleton
    sample: Sampler
    layout: Layout
    crowd_index: bool = False  # images have `crowdIndex`, as in CrowdPose
    headbox: bool = False  # annotations have `headbox` (x1, y1, x2, y2), for PCKh


# Large heads: COCO's sigmas of a face allow 5 % of the size of what the box is of.
_HEADS = Layout(
    numbers=(0.5, 0.35, 0.15), sizes=(1.2, 3.0), crowds=False, parts=frozenset({"head"})
)
_TOGETHER = Layout(
    numbers=(0.15, 0.3, 0.3, 0.15, 0.1), sizes=(0.4, 0.9), overlap=0.75, crowds=False
)
_HANDS = Layout(
    numbers=(0.6, 0.3, 0.1),
    sizes=(0.3, 0.7),
    overlap=0.35,
    crowds=False,
    parts=ANNOTATED_PARTS,
)
_ANIMALS = Layout(numbers=(0.6, 0.3, 0.1), sizes=(0.25, 0.5), crowds=False)
SUBJECTS = {
    "coco": Subject("person", "person", COCO, sample_figure, Layout()),
    "head5": Subject("head", "person", COCO.subset(COCO.keypoints[:5]), sample_figure, _HEADS),
    "crowdpose": Subject(
        "person", "person", preset("crowdpose"), sample_figure, _TOGETHER, crowd_index=True
    ),
    "mpii": Subject(
        "person", "person", preset("mpii"), sample_figure, Layout(crowds=False), headbox=True
    ),
    "ap10k": Subject("animal", "animal", preset("ap10k"), sample_animal, _ANIMALS),
    "hand21": Subject("hand", "hand", preset("hand21"), sample_hand, _HANDS),
}
