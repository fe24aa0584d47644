"""`data_cfg`, `train_pipeline` and `data`: samples, their augmentation, and their files."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sdpose.config.schema.section import (
    Int,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Probability,
    Section,
    Size,
)


class DataCfg(Section):
    """Sizes of crops and heatmaps, (width, height) in pixels, and the boxes to evaluate."""

    image_size: Size = Field(
        (192, 256),
        description="size of the crop that the model sees, (width, height) pixels",
        examples=[[288, 384]],
    )
    heatmap_size: Size = Field(
        (48, 64),
        description="size of the targets and the model's output, (width, height) pixels",
        examples=[[72, 96]],
    )
    sigma: PositiveFloat = Field(
        2.0, description="of the target Gaussian, heatmap pixels", examples=[3.0]
    )
    use_gt_bbox: bool = Field(
        False, description="evaluate on ground-truth boxes instead of detections"
    )
    bbox_file: str = Field(
        "person_detection_results/COCO_val2017_detections_AP_H_56_person.json",
        description="detections in COCO's result format; relative to data_root",
        examples=["detections.json"],
    )
    det_bbox_thr: Probability = Field(
        0.0, description="detections below this score are dropped", examples=[0.05]
    )
    oks_thr: Probability = Field(
        0.9, description="poses more similar than this are duplicates", examples=[0.95]
    )
    vis_thr: Probability = Field(
        0.2, description="joints below it do not count in a pose's score", examples=[0.3]
    )
    soft_nms: bool = Field(False, description="lower the score of duplicates instead of dropping")


class TrainPipeline(Section):
    """Augmentation (`data.augment.draw_augmentation`); defaults of the official configuration."""

    padding: PositiveFloat = Field(
        1.25,
        description="crop size / box size; the one key that evaluation reads too",
        examples=[1.5],
    )
    shift_factor: NonNegativeFloat = Field(
        0.16, description="centre shift / box size, at most", examples=[0.1]
    )
    shift_prob: Probability = Field(
        0.3, description="share of samples whose centre is shifted", examples=[0.0]
    )
    flip_prob: Probability = Field(
        0.5, description="share of samples that are mirrored", examples=[0.0]
    )
    num_joints_half_body: PositiveInt = Field(
        8, description="half-body crops need more visible joints than this", examples=[10]
    )
    prob_half_body: Probability = Field(
        0.3,
        description="share of samples cut to half the body, where enough joints are visible",
        examples=[0.0],
    )
    scale_factor: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.35, description="scale is 1 + N(0, this), clipped to 1 -+ this", examples=[0.25]
    )
    rot_factor: NonNegativeFloat = Field(
        45.0, description="degrees; N(0, this), clipped at twice", examples=[30.0]
    )
    rot_prob: Probability = Field(
        0.6, description="share of samples that are rotated", examples=[0.0]
    )


_ANN_FILE = "COCO keypoints JSON; relative to data_root"
_IMG_PREFIX = "folder of its images; relative to data_root"


class TrainSplit(Section):
    ann_file: str = Field(
        "annotations/person_keypoints_train2017.json",
        description=_ANN_FILE,
        examples=["labels/train.json"],
    )
    img_prefix: str = Field("train2017", description=_IMG_PREFIX, examples=["images"])


class ValSplit(Section):
    ann_file: str = Field(
        "annotations/person_keypoints_val2017.json",
        description=_ANN_FILE,
        examples=["labels/val.json"],
    )
    img_prefix: str = Field("val2017", description=_IMG_PREFIX, examples=["images"])


class ValDataloader(Section):
    samples_per_gpu: PositiveInt = Field(
        32, description="samples that one process evaluates at once", examples=[128]
    )


class Data(Section):
    samples_per_gpu: PositiveInt = Field(
        64, description="samples that one process trains on at once", examples=[32]
    )
    workers_per_gpu: Annotated[Int, Field(ge=0)] = Field(
        2,
        description="loader processes of one process; 0: load in the process itself",
        examples=[4],
    )
    val_dataloader: ValDataloader = ValDataloader()
    on_corrupt: Literal["fail", "skip"] = Field(
        "fail",
        description="what to do with images that are missing, do not decode or have another size "
        "than annotated",
    )
    pipeline: Literal["exact", "fast"] = Field(
        "exact",
        description="exact: loaders decode and warp photos; fast: they copy raw pixels from a pack "
        "that prepare_coco makes once, and the GPU does the rest. The samples are the same",
    )
    pack_dir: str | None = Field(
        None,
        description="of the packs (fast): a folder, which is read in place, or a file:// or s3:// "
        "URI, from which each machine copies shards to its $SDPOSE_CACHE; default: data_root/packs",
        examples=["s3://bucket/packs"],
    )
    train: TrainSplit = TrainSplit()
    val: ValSplit = ValSplit()
