"""The data section of an mmpose configuration: files, boxes, and the steps of the pipelines."""

from __future__ import annotations

import posixpath
from typing import Any

from sdpose.config.legacy.translation import Node, Translation, as_dict, as_list, line, put


def translate_data(data: Node, result: Translation, data_root: str) -> None:
    for key in ("samples_per_gpu", "workers_per_gpu"):
        data.keep(key, f"data.{key}")
    train_loader = data.section("train_dataloader")
    for key in ("samples_per_gpu", "workers_per_gpu"):
        train_loader.keep(key, f"data.{key}")
    train_loader.finish()
    for loader in ("val_dataloader", "test_dataloader"):
        section = data.section(loader)
        batch = section.take("samples_per_gpu")
        if batch is not None:  # validation and test are one thing here
            put(result.experiment, "data.val_dataloader.samples_per_gpu", batch)
        section.finish()
    settings: dict[str, Any] = {}
    for split in ("train", "val", "test"):
        section = data.section(split)
        section.built_in("type", ("TopDownCocoDataset",))
        files = {key: _below(section.take(key), data_root) for key in ("ann_file", "img_prefix")}
        settings[split] = (files, as_dict(section.take("data_cfg")))
        _pipeline(section, split, result)
        info = as_dict(section.take("dataset_info"))
        if info and info.get("dataset_name") not in ("coco", None):
            name = f"data.{split}.dataset_info.dataset_name"
            result.unsupported.append(line(name, info.get("dataset_name")))
        section.finish()
        if split != "test":
            for key, value in files.items():
                if value is not None:
                    put(result.experiment, f"data.{split}.{key}", value)
    data.finish()
    if settings["test"][0] != settings["val"][0]:
        result.unsupported.append(f"{line('data.test', settings['test'][0])}  (val is tested)")
    _data_cfg(settings["train"][1], settings["val"][1], result, data_root)


def _data_cfg(
    train: dict[str, Any], val: dict[str, Any], result: Translation, data_root: str
) -> None:
    evaluation = Node(val, "data_cfg", result)
    for key in ("image_size", "heatmap_size", "use_gt_bbox", "det_bbox_thr", "oks_thr", "vis_thr"):
        evaluation.keep(key, f"data_cfg.{key}")
    evaluation.keep("soft_nms", "data_cfg.soft_nms")
    bbox_file = evaluation.take("bbox_file")
    if bbox_file:
        put(result.experiment, "data_cfg.bbox_file", _below(bbox_file, data_root))
    joints = list(range(17))
    for key in ("num_output_channels", "num_joints"):
        evaluation.built_in(key, (17,))
    evaluation.built_in("dataset_channel", ([joints], joints))
    evaluation.built_in("inference_channel", (joints,))
    evaluation.built_in("use_nms", (True,))
    # Read by older versions only: the NMS of the detector's boxes.
    evaluation.built_in("nms_thr", (1.0,))
    evaluation.finish()
    for key in ("image_size", "heatmap_size"):
        if train.get(key, val.get(key)) != val.get(key):
            result.unsupported.append(
                f"{line(f'data.train.data_cfg.{key}', train.get(key))}  (training has val's)"
            )


def _below(path: Any, data_root: str) -> Any:
    """A path relative to data_root where it lies there; else as it is."""
    if not isinstance(path, str):
        return path
    path, root = posixpath.normpath(path), posixpath.normpath(data_root) if data_root else ""
    return path.removeprefix(root + "/") if root else path


def _pipeline(section: Node, split: str, result: Translation) -> None:
    """The random steps of training; the fixed ones must be those of every sample here."""
    random_steps: dict[str, dict[str, str]] = {
        "TopDownRandomShiftBboxCenter": {"shift_factor": "shift_factor", "prob": "shift_prob"},
        "TopDownRandomFlip": {"flip_prob": "flip_prob"},
        "TopDownHalfBodyTransform": {
            "num_joints_half_body": "num_joints_half_body",
            "prob_half_body": "prob_half_body",
        },
        "TopDownGetRandomScaleRotation": {
            "rot_factor": "rot_factor",
            "scale_factor": "scale_factor",
            "rot_prob": "rot_prob",
        },
    }
    defaults = {
        "TopDownRandomShiftBboxCenter": {"shift_factor": 0.16, "prob": 0.3},
        "TopDownRandomFlip": {"flip_prob": 0.5},
        "TopDownHalfBodyTransform": {"num_joints_half_body": 8, "prob_half_body": 0.3},
        "TopDownGetRandomScaleRotation": {"rot_factor": 40, "scale_factor": 0.5, "rot_prob": 0.6},
    }
    absent = {"shift_prob": 0.0, "flip_prob": 0.0, "prob_half_body": 0.0}
    pipeline = section.take("pipeline")
    if pipeline is None:
        return
    if not isinstance(pipeline, list | tuple):
        result.unsupported.append(line(f"data.{split}.pipeline", pipeline))
    seen: set[str] = set()
    for index, values in enumerate(as_list(pipeline)):
        step = Node(values, f"data.{split}.pipeline[{index}]", result)
        kind = str(step.take("type"))
        seen.add(kind)
        if kind in random_steps and split == "train":
            for key, ours in random_steps[kind].items():
                step.keep(key, f"train_pipeline.{ours}", default=defaults[kind][key])
        elif kind == "TopDownGetBboxCenterScale":
            if split == "train":
                step.keep("padding", "train_pipeline.padding", default=1.25)
            else:
                trained = result.experiment.get("train_pipeline", {}).get("padding", 1.25)
                step.built_in("padding", (trained,))
        elif kind == "NormalizeTensor":
            step.built_in("mean", ([0.485, 0.456, 0.406], (0.485, 0.456, 0.406)))
            step.built_in("std", ([0.229, 0.224, 0.225], (0.229, 0.224, 0.225)))
        elif kind == "TopDownGenerateTarget":
            step.keep("sigma", "data_cfg.sigma", default=2)
            step.built_in("unbiased_encoding", (True,))
            if not values.get("unbiased_encoding"):
                result.unsupported.append(
                    f"data.{split}.pipeline[{index}]: TopDownGenerateTarget without "
                    "unbiased_encoding  (targets are unbiased here)"
                )
                step.take("unbiased_encoding")
        elif kind in ("LoadImageFromFile", "TopDownAffine", "ToTensor", "Collect"):
            for key in ("keys", "meta_keys"):
                step.take(key)  # what is handed on, not what it is
            step.built_in("color_type", ("color",))
            step.built_in("channel_order", ("rgb",))
            step.built_in("to_float32", (False,))
            step.built_in("use_udp", (False,))
        else:
            result.unsupported.append(line(f"data.{split}.pipeline[{index}]", values))
            continue
        step.finish()
    if split == "train":
        missing = {
            "TopDownRandomShiftBboxCenter": "shift_prob",
            "TopDownRandomFlip": "flip_prob",
            "TopDownHalfBodyTransform": "prob_half_body",
        }
        for kind, ours in missing.items():
            if kind not in seen:
                put(result.experiment, f"train_pipeline.{ours}", absent[ours])
        if "TopDownGetRandomScaleRotation" not in seen:
            for key in ("rot_prob", "scale_factor"):
                put(result.experiment, f"train_pipeline.{key}", 0.0)
