"""Names of keys that are not their full paths."""

from __future__ import annotations

_HEAD = "model.keypoint_head."
_BOTH = (f"{_HEAD}loss_vis_token_dist", f"{_HEAD}loss_kpt_token_dist")

# What people type, at the top of an experiment, in a sweep and after --set. Of a name that stands
# for several keys, those in a section that is null stay out: a loss that is off is not set.
SHORT_KEYS: dict[str, tuple[str, ...]] = {
    "mask_ratio": tuple(f"{loss}.mask_ratio" for loss in _BOTH),
    "mask_strategy": tuple(f"{loss}.mask_strategy" for loss in _BOTH),
    "loss_weight": tuple(f"{loss}.loss_weight" for loss in _BOTH),
    "loss_vis_token_dist": _BOTH[:1],
    "loss_kpt_token_dist": _BOTH[1:],
    "cycle_num": (f"{_HEAD}tokenpose_cfg.cycle_num",),
    "samples_per_gpu": ("data.samples_per_gpu",),
    "workers_per_gpu": ("data.workers_per_gpu",),
    "lr": ("optimizer.lr",),
    "weight_decay": ("optimizer.weight_decay",),
    "max_norm": ("optimizer_config.grad_clip.max_norm",),
    "max_keep_ckpts": ("checkpoint_config.max_keep_ckpts",),
    "use_gt_bbox": ("data_cfg.use_gt_bbox",),
}

# Other tools' names; they are answered, not taken.
OTHER_NAMES = {
    "batch": "data.samples_per_gpu",
    "batch_size": "data.samples_per_gpu",
    "workers": "data.workers_per_gpu",
    "num_workers": "data.workers_per_gpu",
    "learning_rate": "optimizer.lr",
    "lr0": "optimizer.lr",
    "epochs": "total_epochs",
    "max_epochs": "total_epochs",
    "imgsz": "data_cfg.image_size",
    "img_size": "data_cfg.image_size",
    "name": "exp_name",
    "data_dir": "data_root",
    "checkpoint": "load_from",
    "resume": "resume_from",
    "fp16": "amp",
    "optim_wrapper": "optimizer",
    "param_scheduler": "lr_config",
    "cycles": f"{_HEAD}tokenpose_cfg.cycle_num",
}
