"""Every key of an experiment, as a table: from the schema, so that no page can lag behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from sdpose.config.schema import Experiment
from sdpose.config.short_keys import SHORT_KEYS

# Where the choices do not make one: another value than the default, of the right size.
EXAMPLES: dict[str, Any] = {
    "exp_name": "maskedkd_v2",
    "work_dir": "s3://bucket/runs/maskedkd_v2",
    "data_root": "/data/coco",
    "seed": 1,
    "load_from": "work_dirs/teacher/best_AP_epoch_290.pth",
    "resume_from": "auto",
    "model.pretrained": "hrnet_w32-36af842e.pth",
    "model.backbone.width": 32,
    "model.backbone.num_blocks": 2,
    "model.keypoint_head.loss_keypoint.loss_weight": 10.0,
    "model.keypoint_head.loss_vis_token_dist": {"type": "MaskedTokenDistilLoss"},
    "model.keypoint_head.loss_kpt_token_dist": {"type": "MaskedTokenDistilLoss"},
    "....loss_weight": 1e-5,
    "....mask_ratio": 0.5,
    "model.keypoint_head.tokenpose_cfg.feature_size": [64, 48],  # others do not fit image_size
    "model.keypoint_head.tokenpose_cfg.heatmap_size": [64, 48],
    "model.keypoint_head.tokenpose_cfg.patch_size": [2, 2],
    "model.keypoint_head.tokenpose_cfg.dim": 96,
    "model.keypoint_head.tokenpose_cfg.depth": 6,
    "model.keypoint_head.tokenpose_cfg.heads": 4,
    "model.keypoint_head.tokenpose_cfg.mlp_ratio": 4.0,
    "model.keypoint_head.tokenpose_cfg.cycle_num": 3,
    "model.test_cfg.modulate_kernel": 17,
    "data_cfg.image_size": [288, 384],
    "data_cfg.heatmap_size": [72, 96],
    "data_cfg.sigma": 3.0,
    "data_cfg.bbox_file": "detections.json",
    "data_cfg.det_bbox_thr": 0.05,
    "data_cfg.oks_thr": 0.95,
    "data_cfg.vis_thr": 0.3,
    "train_pipeline.padding": 1.5,
    "train_pipeline.shift_factor": 0.1,
    "train_pipeline.shift_prob": 0.0,
    "train_pipeline.flip_prob": 0.0,
    "train_pipeline.num_joints_half_body": 10,
    "train_pipeline.prob_half_body": 0.0,
    "train_pipeline.scale_factor": 0.25,
    "train_pipeline.rot_factor": 30.0,
    "train_pipeline.rot_prob": 0.0,
    "data.samples_per_gpu": 32,
    "data.workers_per_gpu": 4,
    "data.val_dataloader.samples_per_gpu": 128,
    "data.pack_dir": "s3://bucket/packs",
    "data.train.ann_file": "labels/train.json",
    "data.train.img_prefix": "images",
    "data.val.ann_file": "labels/val.json",
    "data.val.img_prefix": "images",
    "optimizer.lr": 5e-4,
    "optimizer.weight_decay": 0.01,
    "optimizer.momentum": 0.95,
    "optimizer.betas": [0.9, 0.98],
    "optimizer_config.grad_clip": {"max_norm": 1.0},
    "optimizer_config.grad_clip.max_norm": 1.0,
    "optimizer_config.grad_clip.norm_type": 1.0,
    "optimizer_config.cumulative_iters": 2,
    "lr_config.step": [70, 90],
    "lr_config.gamma": 0.5,
    "lr_config.min_lr_ratio": 0.01,
    "lr_config.warmup_iters": 1000,
    "lr_config.warmup_ratio": 0.1,
    "total_epochs": 100,
    "ema": {"decay": 0.999},
    "ema.decay": 0.999,
    "ema.warm_up": 1.0,
    "loss_spike": 2.0,
    "ap_drop": 0.05,
    "checkpoint_config.interval": 5,
    "checkpoint_config.max_keep_ckpts": 3,
    "checkpoint_config.out_dir": "/mnt/checkpoints",
    "checkpoint_config.interval_minutes": 5.0,
    "checkpoint_config.mirror": "s3://bucket/checkpoints",
    "evaluation.interval": 5,
    "log_config.interval": 10,
    "log_config.hooks": ["TextLoggerHook"],
    "registry.model": "warehouse",
    "promotion.min_ap": 0.7,
    "promotion.margin": 0.002,
    "promotion.max_latency_ms": 20.0,
    "promotion.max_size_mb": 30.0,
    "early_stopping": {"folder": "work_dirs/rungs"},
    "early_stopping.min_epochs": 5,
    "early_stopping.reduction_factor": 2,
    "early_stopping.folder": "s3://bucket/rungs",
}


@dataclass(frozen=True)
class Key:
    """A value that an experiment can have, or a section that can be null."""

    path: str  # dotted
    meaning: str
    default: Any  # ... if there is none
    choices: tuple[Any, ...]  # all of them, where they can be listed

    @property
    def example(self) -> Any:
        """A value that can be written there; another one than the default, where there is one."""
        for path in (self.path, f"....{self.path.rpartition('.')[2]}"):
            if path in EXAMPLES:
                return EXAMPLES[path]
        return next((choice for choice in self.choices if choice != self.default), self.default)


def keys(
    section: type[BaseModel] = Experiment, prefix: str = "", values: BaseModel | None = None
) -> Iterator[Key]:
    """Every key, those of sections behind their section's. values: the section as it is by default,
    where that is not what its own fields say."""
    for name, field in section.model_fields.items():
        path, default = prefix + name, ... if field.is_required() else field.default
        if values is not None:
            default = getattr(values, name)
        below = _section(field.annotation)
        choices = _choices(field.annotation)
        if below is None or None in choices:
            yield Key(path, field.description or "", default, choices if below is None else ())
        if below is not None:
            whole = default if isinstance(default, BaseModel) else None
            yield from keys(below, f"{path}.", whole)


def example_of(path: str) -> str | None:
    """A value that can be written for a key of an experiment, as YAML; None: no such key."""
    return next((as_yaml(key.example) for key in keys() if key.path == path), None)


def table() -> str:
    """Markdown: a heading and a table for the top level and for each section."""
    by_section: dict[str, list[Key]] = {"top level": []}
    every = list(keys())
    sections = {key.path.partition(".")[0] for key in every if "." in key.path}
    for key in every:
        head = key.path.partition(".")[0]
        by_section.setdefault(head if head in sections else "top level", []).append(key)
    lines: list[str] = []
    for name, found in by_section.items():
        lines += [
            "",
            f"### {name}",
            "",
            "| key | meaning | default | example |",
            "|---|---|---|---|",
        ]
        lines += map(_row, found)
    return "\n".join(lines).strip() + "\n"


def _row(key: Key) -> str:
    choices = [as_yaml(choice) for choice in key.choices if choice is not None]
    is_told = not choices or set(key.choices) == {True, False}
    allowed = "" if is_told else f" ({', '.join(f'`{choice}`' for choice in choices)})"
    default = "required" if key.default is ... else f"`{as_yaml(key.default)}`"
    meaning = key.meaning.replace("|", "\\|").replace("<", "&lt;")
    short = next((f" (`{name}`)" for name, full in SHORT_KEYS.items() if key.path in full), "")
    return f"| `{key.path}`{short} | {meaning}{allowed} | {default} | `{as_yaml(key.example)}` |"


def _section(annotation: Any) -> type[BaseModel] | None:
    """The section that a key takes, or may take; of a list of sections none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is tuple:
        return None
    return next(filter(None, map(_section, get_args(annotation))), None)


def _choices(annotation: Any) -> tuple[Any, ...]:
    if annotation is bool:
        return (True, False)
    if annotation is type(None):
        return (None,)
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if get_origin(annotation) is tuple:
        return ()
    return tuple(choice for each in get_args(annotation) for choice in _choices(each))


def as_yaml(value: Any) -> str:
    """On one line, as it can be written."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_none=True)
    if isinstance(value, str):
        return value
    if isinstance(value, tuple | list):
        items = [getattr(item, "type", item) for item in value]
        return f"[{', '.join(map(str, items))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {as_yaml(item)}' for key, item in value.items())}}}"
    return json.dumps(value) if isinstance(value, bool | float | None) else str(value)
