"""What an experiment may say: every key, its meaning, unit, range and default.

The keys are the ones that mmpose users know. Unknown keys are refused at every level, and every
key is read by the code (tests/config/test_every_key_is_read.py).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError


def _no_boolean(value: Any) -> Any:
    """`seed: true` is a slip, not the number 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("int_type", "input should be a valid integer")
    return value


Int = Annotated[int, BeforeValidator(_no_boolean)]
PositiveInt = Annotated[Int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
Size = tuple[PositiveInt, PositiveInt]
# A folder under work_dirs, an MLflow experiment and a registered model are named after it.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}$")]

# The feature map of every backbone has a quarter of the image's resolution.
BACKBONE_STRIDE = 4


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


# ---------------------------------------------------------------------------------------- model


class Backbone(Section):
    """`StemNet` is the stem of ResNet (two strided convolutions, bottlenecks, 4 x width channels);
    `HRNet_3stage` is HRNet without its last stage, of which the highest resolution is used
    (`width` channels)."""

    type: Literal["StemNet", "HRNet_3stage"] = "StemNet"
    width: PositiveInt | None = Field(
        None, description="channels of the first branch; default 64 for StemNet, 32 for HRNet"
    )
    num_blocks: PositiveInt = Field(4, description="bottlenecks of the stem")

    @model_validator(mode="before")
    @classmethod
    def _default_width(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("width") is None:
            value = value | {"width": 32 if value.get("type") == "HRNet_3stage" else 64}
        return value


class KeypointLoss(Section):
    type: Literal["JointsMSELoss"] = "JointsMSELoss"
    use_target_weight: bool = Field(True, description="ignore joints that are not annotated")
    loss_weight: NonNegativeFloat = 1.0


class TokenDistilLoss(Section):
    """Pulls the tokens of each cycle to those of the next one (`MaskedTokenDistilLoss`: only the
    tokens that are not masked)."""

    type: Literal["TokenDistilLoss", "MaskedTokenDistilLoss"] = "TokenDistilLoss"
    loss_weight: NonNegativeFloat = 5e-6
    mask_ratio: Probability | None = Field(
        None, description="share of every sample's tokens that is left out (masked loss; 0.3)"
    )
    mask_strategy: Literal["random", "importance"] | None = Field(
        None, description="which tokens are left out: random ones, or the least important"
    )
    detach_teacher: bool = Field(
        False, description="stop the gradient into the later cycle (the official code does not)"
    )

    @model_validator(mode="before")
    @classmethod
    def _masking_keys(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        defaults = {"mask_ratio": 0.3, "mask_strategy": "random"}
        if value.get("type") == "MaskedTokenDistilLoss":
            chosen = {key: value[key] for key in defaults if value.get(key) is not None}
            return value | defaults | chosen
        unread = [key for key in defaults if value.get(key) is not None]
        if unread:
            raise ValueError(
                f"{' and '.join(unread)} would not be read by TokenDistilLoss; "
                "set type: MaskedTokenDistilLoss, or remove it (null)"
            )
        return value


class TokenPose(Section):
    """The transformer that is run `cycle_num` times with shared weights. Sizes are (height,
    width), as in the official configurations."""

    feature_size: Size = Field((64, 48), description="backbone's output; default: image_size / 4")
    heatmap_size: Size = Field((64, 48), description="default: that of data_cfg, swapped")
    patch_size: Size = Field((4, 3), description="feature pixels that make one vision token")
    dim: PositiveInt = Field(192, description="width of a token")
    depth: PositiveInt = Field(12, description="transformer layers in one cycle")
    heads: PositiveInt = Field(8, description="attention heads")
    mlp_ratio: PositiveFloat = Field(3, description="hidden width of the feed-forward layer / dim")
    pos_embedding_type: Literal["sine-full", "sine", "learnable"] = Field(
        "sine-full",
        description="sine-full adds the position before every layer but the first as well",
    )
    cycle_num: PositiveInt = Field(2, description="passes through the transformer in training")

    @model_validator(mode="after")
    def _divisible(self) -> TokenPose:
        for axis, (feature, patch) in enumerate(
            zip(self.feature_size, self.patch_size, strict=True)
        ):
            if feature % patch:
                raise ValueError(
                    f"patch_size {list(self.patch_size)} does not divide feature_size "
                    f"{list(self.feature_size)} (axis {axis}: {feature} / {patch})"
                )
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} must be divisible by heads {self.heads}")
        if self.pos_embedding_type != "learnable" and self.dim % 4:
            raise ValueError(f"dim {self.dim} must be divisible by 4 for a sine embedding")
        return self


class KeypointHead(Section):
    loss_keypoint: KeypointLoss = KeypointLoss()
    loss_vis_token_dist: TokenDistilLoss | None = TokenDistilLoss()
    loss_kpt_token_dist: TokenDistilLoss | None = TokenDistilLoss()
    tokenpose_cfg: TokenPose = TokenPose()


class TestCfg(Section):
    flip_test: bool = Field(True, description="average with the prediction of the mirrored crop")
    post_process: Literal["unbiased", "default"] | None = Field(
        "unbiased",
        description="unbiased: DARK; default: a quarter pixel towards the higher neighbour; "
        "null: the highest pixel",
    )
    shift_heatmap: bool = Field(
        True, description="shift the mirrored heatmap by one pixel (flip_test)"
    )
    modulate_kernel: PositiveInt = Field(11, description="heatmap pixels; odd (unbiased)")

    @model_validator(mode="after")
    def _odd(self) -> TestCfg:
        if self.modulate_kernel % 2 == 0:
            raise ValueError(f"modulate_kernel must be odd, not {self.modulate_kernel}")
        return self


class Model(Section):
    pretrained: str | None = Field(
        None, description="file with weights for the backbone (ImageNet HRNet, say)"
    )
    backbone: Backbone = Backbone()
    keypoint_head: KeypointHead = KeypointHead()
    test_cfg: TestCfg = TestCfg()


# ----------------------------------------------------------------------------------------- data


class DataCfg(Section):
    """What a sample is, and which boxes are evaluated. Sizes are (width, height) in pixels."""

    image_size: Size = Field((192, 256), description="size of the crop that the model sees")
    heatmap_size: Size = (48, 64)
    sigma: PositiveFloat = Field(2.0, description="of the target Gaussian, heatmap pixels")
    use_gt_bbox: bool = Field(
        False, description="evaluate on ground-truth boxes instead of detections"
    )
    bbox_file: str = Field(
        "person_detection_results/COCO_val2017_detections_AP_H_56_person.json",
        description="detections in COCO's result format; relative to data_root",
    )
    det_bbox_thr: Probability = Field(0.0, description="detections below this score are dropped")
    oks_thr: Probability = Field(0.9, description="poses more similar than this are duplicates")
    vis_thr: Probability = Field(0.2, description="joints below it do not count in a pose's score")
    soft_nms: bool = Field(False, description="lower the score of duplicates instead of dropping")


class TrainPipeline(Section):
    """The random part of a training sample; distributions as in the official configuration."""

    padding: PositiveFloat = Field(
        1.25, description="crop size / box size; the one key that evaluation reads too"
    )
    shift_factor: NonNegativeFloat = Field(0.16, description="centre shift / box size, at most")
    shift_prob: Probability = 0.3
    flip_prob: Probability = 0.5
    num_joints_half_body: PositiveInt = Field(
        8, description="half-body crops need more visible joints than this"
    )
    prob_half_body: Probability = 0.3
    scale_factor: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.35, description="scale is 1 + N(0, this), clipped to 1 -+ this"
    )
    rot_factor: NonNegativeFloat = Field(45.0, description="degrees; N(0, this), clipped at twice")
    rot_prob: Probability = 0.6


class Split(Section):
    ann_file: str = Field(description="COCO keypoints JSON; relative to data_root")
    img_prefix: str = Field(description="folder of its images; relative to data_root")


class ValDataloader(Section):
    samples_per_gpu: PositiveInt = 32


class Data(Section):
    samples_per_gpu: PositiveInt = Field(64, description="training batch of one process")
    workers_per_gpu: Annotated[Int, Field(ge=0)] = Field(
        2, description="loader processes of one process; 0: load in the process itself"
    )
    val_dataloader: ValDataloader = ValDataloader()
    on_corrupt: Literal["fail", "skip"] = Field(
        "fail",
        description="what to do with images that are missing, do not decode or have another size "
        "than annotated",
    )
    train: Split = Split(
        ann_file="annotations/person_keypoints_train2017.json", img_prefix="train2017"
    )
    val: Split = Split(ann_file="annotations/person_keypoints_val2017.json", img_prefix="val2017")


# ------------------------------------------------------------------------------------- training


class Optimizer(Section):
    type: Literal["Adam", "AdamW", "SGD"] = "Adam"
    lr: PositiveFloat = Field(1e-3, description="for the global batch; it is not scaled for you")
    weight_decay: NonNegativeFloat = 0.0
    momentum: Probability = Field(0.9, description="SGD; the other types read betas")
    betas: tuple[Probability, Probability] = (0.9, 0.999)


class GradClip(Section):
    max_norm: PositiveFloat
    norm_type: PositiveFloat = 2.0


class OptimizerConfig(Section):
    grad_clip: GradClip | None = None


class LrConfig(Section):
    policy: Literal["step", "cosine"] = "step"
    step: tuple[PositiveInt, ...] = Field((200, 260), description="epochs after which lr x gamma")
    gamma: PositiveFloat = Field(0.1, description="step")
    min_lr_ratio: Probability = Field(0.0, description="cosine: final lr / lr")
    warmup: Literal["linear"] | None = "linear"
    warmup_iters: Annotated[Int, Field(ge=0)] = Field(500, description="iterations")
    warmup_ratio: Probability = Field(0.001, description="lr of the first iteration / lr")

    @model_validator(mode="before")
    @classmethod
    def _mmcv_name(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("policy") == "CosineAnnealing":
            value = value | {"policy": "cosine"}
        return value

    @model_validator(mode="after")
    def _increasing(self) -> LrConfig:
        if list(self.step) != sorted(set(self.step)):
            raise ValueError(f"step must increase: {list(self.step)}")
        return self


class CheckpointConfig(Section):
    interval: PositiveInt = Field(10, description="epochs between epoch_N.pth")
    max_keep_ckpts: Annotated[Int, Field(ge=-1)] = Field(
        -1, description="newest epoch_N.pth that are kept; -1: all"
    )
    save_last: bool = Field(True, description="save the last epoch even between intervals")
    out_dir: str | None = Field(
        None, description="checkpoints go to out_dir/<name of the work dir>; default: the work dir"
    )


class Evaluation(Section):
    interval: PositiveInt = Field(10, description="epochs between evaluations")
    metric: Literal["mAP"] = "mAP"
    save_best: Literal["AP"] | None = Field("AP", description="keep best_AP_epoch_N.pth")
    backend: Literal["pycocotools", "faster-coco-eval"] = "pycocotools"


class LogHook(Section):
    type: Literal["TextLoggerHook", "TensorboardLoggerHook", "MlflowLoggerHook"]


class LogConfig(Section):
    interval: PositiveInt = Field(50, description="iterations between lines")
    hooks: tuple[LogHook, ...] = (
        LogHook(type="TextLoggerHook"),
        LogHook(type="TensorboardLoggerHook"),
        LogHook(type="MlflowLoggerHook"),
    )

    @model_validator(mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("hooks"), list):
            hooks = [{"type": h} if isinstance(h, str) else h for h in value["hooks"]]
            value = value | {"hooks": hooks}
        return value


# ----------------------------------------------------------------------------------- experiment


class Experiment(Section):
    """One experiment, resolved: what `sdpose config show` prints."""

    exp_name: Name
    work_dir: str | None = Field(None, description="default: work_dirs/<exp_name>")
    data_root: str = "data/coco"
    seed: Annotated[Int, Field(ge=0, lt=2**31)] = 0
    load_from: str | None = Field(None, description="start from the weights of this file")
    resume_from: str | None = Field(
        None, description="continue this checkpoint; auto: the newest of the work dir, if any"
    )
    model: Model = Model()
    data_cfg: DataCfg = DataCfg()
    train_pipeline: TrainPipeline = TrainPipeline()
    data: Data = Data()
    optimizer: Optimizer = Optimizer()
    optimizer_config: OptimizerConfig = OptimizerConfig()
    lr_config: LrConfig = LrConfig()
    total_epochs: PositiveInt = 300
    sync_bn: bool = Field(
        True,
        description="BatchNorm over the global batch, so that N processes train the model of one",
    )
    checkpoint_config: CheckpointConfig = CheckpointConfig()
    evaluation: Evaluation = Evaluation()
    log_config: LogConfig = LogConfig()

    @model_validator(mode="before")
    @classmethod
    def _derived_defaults(cls, value: Any) -> Any:
        """Fills the work dir from the name and the model's sizes from the data's."""
        if not isinstance(value, dict):
            return value
        value = dict(value)
        if value.get("work_dir") is None and isinstance(value.get("exp_name"), str):
            value["work_dir"] = f"work_dirs/{value['exp_name']}"
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
