"""The complete experiment, and the defaults that depend on other sections."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sdpose.config.schema.data import Data, DataCfg, TrainPipeline
from sdpose.config.schema.model import Model
from sdpose.config.schema.outputs import CheckpointConfig, Evaluation, LogConfig
from sdpose.config.schema.promotion import Promotion, Registry
from sdpose.config.schema.section import (
    Int,
    Name,
    PositiveInt,
    Probability,
    Section,
    Switch,
    WeightsFile,
    is_name,
)
from sdpose.config.schema.skeleton import COCO, Skeleton, SkeletonChoice
from sdpose.config.schema.sweep import EarlyStopping
from sdpose.config.schema.training import Amp, Ema, LrConfig, Optimizer, OptimizerConfig
from sdpose.errors import UserError

# The feature map of every backbone has a quarter of the image's resolution.
BACKBONE_STRIDE = 4


class Experiment(Section):
    """One experiment, resolved: what `sdpose config show` prints."""

    exp_name: Name = Field(
        description="names the work dir and the MLflow run", examples=["maskedkd_v2"]
    )
    work_dir: str | None = Field(
        None,
        description="folder of the results; default: work_dirs/<exp_name>. s3://bucket/prefix: a "
        "folder below $SDPOSE_SCRATCH/work_dirs/s3 is worked in, and mirrored there",
        examples=["s3://bucket/runs/maskedkd_v2"],
    )
    data_root: str = Field(
        "data/coco",
        description="folder of COCO; other paths of data are relative to it",
        examples=["/data/coco"],
    )
    seed: Annotated[Int, Field(ge=0, lt=2**31)] = Field(
        0,
        description="of the weights, the order of the samples, augmentation and masks",
        examples=[1],
    )
    load_from: WeightsFile | None = Field(
        None,
        description="start from the weights of this file",
        examples=["work_dirs/teacher/best_AP_epoch_290.pth"],
    )
    resume_from: WeightsFile | None = Field(
        None,
        description="continue this checkpoint; auto: the newest intact one of the work dir or its "
        "mirror, if any",
        examples=["auto"],
    )
    skeleton: SkeletonChoice = Field(
        COCO,
        description="a shipped skeleton (coco, crowdpose, mpii, coco_wholebody, ap10k, hand21), "
        "auto (from the category of the training file), or the keys below it",
        examples=["auto"],
    )
    model: Model = Model()
    data_cfg: DataCfg = DataCfg()
    train_pipeline: TrainPipeline = TrainPipeline()
    data: Data = Data()
    optimizer: Optimizer = Optimizer()
    optimizer_config: OptimizerConfig = OptimizerConfig()
    lr_config: LrConfig = LrConfig()
    total_epochs: PositiveInt = Field(300, description="epochs to train", examples=[100])
    amp: Amp = Field(
        "auto",
        description="autocast type; auto: bf16 on GPUs that compute in it, off elsewhere; fp16 "
        "scales the loss",
    )
    compile: Switch = Field("auto", description="torch.compile; auto: on GPUs")
    channels_last: Switch = Field(
        "auto", description="memory format of images and convolutions; auto: on GPUs"
    )
    ema: Ema | None = Field(
        None, description="average the weights; null: off", examples=[{"decay": 0.999}]
    )
    on_divergence: Literal["stop", "skip_step", "rollback"] = Field(
        "stop",
        description="after NaN or Inf; skip_step leaves such steps and loss spikes out; rollback "
        "goes back to the weights of the last checkpoint (after a drop of AP: of the best one) and "
        "on with the samples after those that diverged",
    )
    loss_spike: Annotated[float, Field(gt=1, allow_inf_nan=False)] = Field(
        5.0,
        description="a step whose loss is above this many times the usual one is a spike",
        examples=[2.0],
    )
    ap_drop: Probability = Field(
        0.1,
        description="an AP that far below the best so far, 0..1, is reported as a drop",
        examples=[0.05],
    )
    sync_bn: bool = Field(
        True,
        description="BatchNorm over the global batch, so that N processes train the model of one",
    )
    checkpoint_config: CheckpointConfig = CheckpointConfig()
    evaluation: Evaluation = Evaluation()
    log_config: LogConfig = LogConfig()
    registry: Registry = Registry()
    promotion: Promotion = Promotion()
    early_stopping: EarlyStopping | None = Field(
        None,
        description="stop with the weaker trials of a sweep; null: go on to total_epochs",
        examples=[{"folder": "work_dirs/rungs"}],
    )

    @property
    def keypoints(self) -> Skeleton:
        """The skeleton, once it is known.

        Raises:
            UserError: it is `auto`, and this program does not read the training file.
        """
        if self.skeleton is None:
            raise UserError(
                "skeleton: auto is read from the training file, which is not read here: write the "
                "skeleton into the experiment; `sdpose skeleton show` prints it"
            )
        return self.skeleton

    @model_validator(mode="before")
    @classmethod
    def _derived_defaults(cls, value: Any) -> Any:
        """Default the work dir to the name, and the model's sizes to those of the data."""
        if not isinstance(value, dict):
            return value
        value = dict(value)
        if value.get("work_dir") is None and isinstance(value.get("exp_name"), str):
            value["work_dir"] = f"work_dirs/{value['exp_name']}"
        registry = value.get("registry", {})
        if isinstance(registry, dict) and registry.get("model") is None:
            # An invalid name is reported once, as exp_name.
            given = value.get("exp_name")
            value["registry"] = {**registry, "model": given if is_name(given) else None}
        try:
            sizes = DataCfg.model_validate(value.get("data_cfg", {}))
        except ValueError:
            return value  # reported where data_cfg itself is validated
        width, height = sizes.image_size
        if width % BACKBONE_STRIDE or height % BACKBONE_STRIDE:
            raise ValueError(
                f"data_cfg.image_size {[width, height]} must be divisible by {BACKBONE_STRIDE}"
            )
        feature_size = [height // BACKBONE_STRIDE, width // BACKBONE_STRIDE]
        derived = {"feature_size": feature_size, "heatmap_size": list(sizes.heatmap_size[::-1])}
        node = value
        for key in ("model", "keypoint_head", "tokenpose_cfg"):
            child = node.get(key, {})
            if not isinstance(child, dict):
                return value
            node[key] = dict(child)
            node = node[key]
        for key, size in derived.items():
            if node.get(key) is None:
                node[key] = size
        return value

    @model_validator(mode="after")
    def _one_mirror(self) -> Experiment:
        if "://" in str(self.work_dir) and self.checkpoint_config.mirror is not None:
            raise ValueError(
                f"work_dir {self.work_dir} is a mirror already: leave checkpoint_config.mirror "
                "out, or set work_dir to a folder"
            )
        return self

    @model_validator(mode="after")
    def _sizes_agree(self) -> Experiment:
        width, height = self.data_cfg.image_size
        head = self.model.keypoint_head.tokenpose_cfg
        expected = (height // BACKBONE_STRIDE, width // BACKBONE_STRIDE)
        if head.feature_size != expected:
            raise ValueError(
                f"tokenpose_cfg.feature_size {list(head.feature_size)} (height, width) does not "
                f"fit data_cfg.image_size {[width, height]} (width, height): it must be "
                f"{list(expected)}; leave it out to have it set"
            )
        if head.heatmap_size != self.data_cfg.heatmap_size[::-1]:
            raise ValueError(
                f"tokenpose_cfg.heatmap_size {list(head.heatmap_size)} (height, width) and "
                f"data_cfg.heatmap_size {list(self.data_cfg.heatmap_size)} (width, height) "
                "differ; leave the first out to have it set"
            )
        return self
