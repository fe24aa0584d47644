"""Every key of an experiment, as a table: from the schema, so that no page can lag behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sdpose.config.schema import Experiment

# Of keys whose default shows nobody what to write.
EXAMPLES: dict[str, Any] = {
    "exp_name": "maskedkd_v2",
    "work_dir": "s3://bucket/runs/maskedkd_v2",
    "data_root": "/data/coco",
    "seed": 1,
    "load_from": "work_dirs/teacher/best_AP_epoch_290.pth",
    "resume_from": "auto",
    "model.pretrained": "hrnet_w32-imagenet.pth",
    "model.backbone.width": 64,
    "model.keypoint_head.loss_vis_token_dist.mask_ratio": 0.3,
    "model.keypoint_head.loss_vis_token_dist.mask_strategy": "importance",
    "model.keypoint_head.loss_kpt_token_dist.mask_ratio": 0.3,
    "model.keypoint_head.loss_kpt_token_dist.mask_strategy": "importance",
    "data.pack_dir": "s3://bucket/packs",
    "data.train.ann_file": "annotations/person_keypoints_train2017.json",
    "data.train.img_prefix": "train2017",
    "data.val.ann_file": "annotations/person_keypoints_val2017.json",
    "data.val.img_prefix": "val2017",
    "optimizer.lr": 5e-4,
    "optimizer_config.grad_clip.max_norm": 1.0,
    "total_epochs": 210,
    "checkpoint_config.out_dir": "/mnt/checkpoints",
    "checkpoint_config.mirror": "s3://bucket/checkpoints",
    "checkpoint_config.max_keep_ckpts": 3,
    "log_config.hooks.type": "TensorboardLoggerHook",
    "promotion.min_ap": 0.7,
    "promotion.max_latency_ms": 20.0,
    "promotion.max_size_mb": 30.0,
    "early_stopping.folder": "work_dirs/sweeps/maskedkd/rungs",
}


def keys(
    section: type[BaseModel] = Experiment, prefix: str = ""
) -> Iterator[tuple[str, FieldInfo]]:
    """The dotted path and the field of every value; sections are walked into."""
    for name, field in section.model_fields.items():
        below = _sections(field.annotation)
        for each in below:
            yield from keys(each, f"{prefix}{name}.")
        if not below:
            yield prefix + name, field


def example(path: str, field: FieldInfo) -> Any:
    """A value that can be written there; another one than the default, where there is a choice."""
    if path in EXAMPLES:
        return EXAMPLES[path]
    others = [v for v in _choices(field.annotation) if v not in (field.default, None)]
    return others[0] if others else field.default


def table() -> str:
    """Markdown: a heading and a table for the top level and for each section."""
    lines: list[str] = []
    last = None
    for path, field in sorted(keys(), key=lambda key: "." in key[0]):
        head, dot, _ = path.partition(".")
        section = head if dot else "top level"
        if section != last:
            lines += ["", f"### {section}", "", "| key | meaning | default | example |"]
            lines.append("|---|---|---|---|")
            last = section
        meaning = (field.description or "").replace("|", "\\|")
        choices = ", ".join(f"`{_yaml(c)}`" for c in _choices(field.annotation) if c is not None)
        allowed = f" ({choices})" if choices and _choices(field.annotation) != [True, False] else ""
        default = "required" if field.is_required() else f"`{_yaml(field.default)}`"
        shown = f"`{_yaml(example(path, field))}`"
        lines.append(f"| `{path}` | {meaning}{allowed} | {default} | {shown} |")
    return "\n".join(lines).strip() + "\n"


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """The section that an annotation allows, also in a union or a tuple."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for each in get_args(annotation) for found in _sections(each)]


def _choices(annotation: Any) -> list[Any]:
    if annotation is bool:
        return [True, False]
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [choice for each in get_args(annotation) for choice in _choices(each)]


def _yaml(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, tuple | list):
        return json.dumps(value)
    return str(yaml.safe_dump(value, width=1000)).removesuffix("...\n").strip()
