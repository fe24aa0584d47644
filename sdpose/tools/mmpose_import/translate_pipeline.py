"""`data.*.pipeline` of an mmpose configuration: the random steps are settings here, the others are
those of every sample."""

from __future__ import annotations

from typing import Any

from sdpose.tools.mmpose_import.translation import Node, Translation, as_list, put

# Of each random step: mmpose's key, ours below train_pipeline, and mmpose's default.
RANDOM = {
    "TopDownRandomShiftBboxCenter": (
        ("shift_factor", "shift_factor", 0.16),
        ("prob", "shift_prob", 0.3),
    ),
    "TopDownRandomFlip": (("flip_prob", "flip_prob", 0.5),),
    "TopDownHalfBodyTransform": (
        ("num_joints_half_body", "num_joints_half_body", 8),
        ("prob_half_body", "prob_half_body", 0.3),
    ),
    "TopDownGetRandomScaleRotation": (
        ("rot_factor", "rot_factor", 40),
        ("scale_factor", "scale_factor", 0.5),
        ("rot_prob", "rot_prob", 0.6),
    ),
}
# What switches a step off that the file does not have.
OFF = {
    "TopDownRandomShiftBboxCenter": ("shift_prob",),
    "TopDownRandomFlip": ("flip_prob",),
    "TopDownHalfBodyTransform": ("prob_half_body",),
    "TopDownGetRandomScaleRotation": ("rot_prob", "scale_factor"),
}
# The steps of every sample; None: any value, it changes no result.
FIXED: dict[str, dict[str, tuple[Any, ...] | None]] = {
    "LoadImageFromFile": {
        "color_type": ("color",),
        "channel_order": ("rgb",),
        "to_float32": (False,),
    },
    "TopDownAffine": {"use_udp": (False,)},
    "ToTensor": {},
    "NormalizeTensor": {
        "mean": ([0.485, 0.456, 0.406], (0.485, 0.456, 0.406)),
        "std": ([0.229, 0.224, 0.225], (0.229, 0.224, 0.225)),
    },
    "Collect": {"keys": None, "meta_keys": None},
}
TARGET = "TopDownGenerateTarget"
BOX = "TopDownGetBboxCenterScale"


def translate_pipeline(dataset: Node, split: str, result: Translation) -> None:
    """The pipeline of data.train or data.val."""
    pipeline, path = dataset.get("pipeline"), dataset.path_of("pipeline")
    if not isinstance(pipeline, list | tuple):
        dataset.unsupported("pipeline", "mmpose has a list here")
    else:
        dataset.take("pipeline")
    seen: set[str] = set()
    for index, values in enumerate(as_list(pipeline)):
        step = Node(values, f"{path}[{index}]", result)
        kind = str(step.get("type"))
        known = kind in FIXED or kind == BOX or (split == "train" and kind in (*RANDOM, TARGET))
        if not known or kind in seen:
            note = "this step is there twice" if known else "no such step here"
            result.not_supported(f"{path}[{index}]", values, note)
            continue
        seen.add(kind)
        step.take("type")
        for key, ours, default in RANDOM.get(kind, ()):
            step.keep(key, f"train_pipeline.{ours}", default=default)
        for key, allowed in FIXED.get(kind, {}).items():
            if allowed is None:
                step.without_effect(key, "what is handed on, not what it is")
            else:
                step.built_in(key, allowed)
        if kind == BOX:
            _padding(step, split, result)
        elif kind == TARGET:
            _target(step, result)
        step.finish()
    for kind in (*FIXED, *[TARGET] * (split == "train")):
        if kind not in seen:
            result.unsupported.append(f"{path}: no {kind}  (every sample has this step here)")
    if split == "train":
        for kind, keys in OFF.items():
            for key in keys:
                if kind not in seen:
                    put(result.experiment, f"train_pipeline.{key}", 0.0)


def _padding(step: Node, split: str, result: Translation) -> None:
    if split == "train":
        step.keep("padding", "train_pipeline.padding", default=1.25)
    else:
        trained = result.experiment.get("train_pipeline", {}).get("padding", 1.25)
        step.built_in("padding", (trained,), "evaluation has the padding of training")


def _target(step: Node, result: Translation) -> None:
    step.keep("sigma", "data_cfg.sigma", default=2)
    step.built_in("encoding", ("MSRA",))
    step.built_in("target_type", ("GaussianHeatmap", "GaussianHeatMap"))
    if step.get("unbiased_encoding") is True:
        step.built_in("unbiased_encoding", (True,))
    else:
        path, value = step.path_of("unbiased_encoding"), step.take("unbiased_encoding", False)
        result.not_supported(path, value, "targets are unbiased here")
