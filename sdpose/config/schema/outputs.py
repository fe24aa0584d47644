"""`checkpoint_config`, `evaluation` and `log_config`: the outputs of a run and their intervals."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sdpose.config.schema.section import Int, PositiveFloat, PositiveInt, Section


class CheckpointConfig(Section):
    interval: PositiveInt = Field(10, description="epochs between epoch_N.pth", examples=[5])
    max_keep_ckpts: Annotated[Int, Field(ge=-1)] = Field(
        -1, description="newest epoch_N.pth that are kept; -1: all", examples=[3]
    )
    save_last: bool = Field(True, description="save the last epoch even between intervals")
    out_dir: str | None = Field(
        None,
        description="checkpoints go to out_dir/<name of the work dir>; default: the work dir",
        examples=["/mnt/checkpoints"],
    )
    interval_minutes: PositiveFloat | None = Field(
        10.0,
        description="minutes after which latest.pth is saved inside an epoch, too (at the next log "
        "line); null: only at the end of every epoch",
        examples=[5.0],
    )
    mirror: str | None = Field(
        None,
        description="s3://bucket/prefix or a folder; checkpoints and logs are also uploaded to "
        "mirror/<name of the work dir>, and a fresh machine continues from there",
        examples=["s3://bucket/checkpoints"],
    )


class Evaluation(Section):
    interval: PositiveInt = Field(10, description="epochs between evaluations", examples=[5])
    metric: Literal["mAP"] = Field(
        "mAP",
        description="AP by the rules of the dataset: CrowdPose's if the images have crowdIndex, "
        "else COCO's. COCO-WholeBody also gets AP and AR of its parts. On ground-truth boxes, "
        "skeletons other than COCO's get PCK, and PCKh with head boxes",
    )
    save_best: Literal["AP", "PCK", "PCKh"] | None = Field(
        "AP",
        description="keep best_AP_epoch_N.pth, or best_PCK_epoch_N.pth by PCK",
        examples=["PCK"],
    )
    backend: Literal["pycocotools", "faster-coco-eval"] = Field(
        "pycocotools", description="faster-coco-eval gives the same figures in less time"
    )


class LogHook(Section):
    type: Literal["TextLoggerHook", "TensorboardLoggerHook", "MlflowLoggerHook"]


class LogConfig(Section):
    interval: PositiveInt = Field(50, description="iterations between lines", examples=[10])
    hooks: tuple[LogHook, ...] = Field(
        (
            LogHook(type="TextLoggerHook"),
            LogHook(type="TensorboardLoggerHook"),
            LogHook(type="MlflowLoggerHook"),
        ),
        description="where figures go: text and JSON lines in the work dir, TensorBoard, MLflow",
        examples=[["TextLoggerHook"]],
    )

    @model_validator(mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("hooks"), list):
            hooks = [{"type": h} if isinstance(h, str) else h for h in value["hooks"]]
            value = value | {"hooks": hooks}
        return value
