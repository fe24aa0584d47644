"""The data section of an mmpose configuration: datasets, files, boxes and sizes."""

from __future__ import annotations

import posixpath
from typing import Any

from sdpose.documents import describe
from sdpose.errors import UserError
from sdpose.tools.mmpose_import.paths import data_folder, is_below, relative_to
from sdpose.tools.mmpose_import.translate_pipeline import translate_pipeline
from sdpose.tools.mmpose_import.translate_skeleton import (
    SKELETON_OF,
    check_joints,
    put_skeleton,
    read_dataset_info,
)
from sdpose.tools.mmpose_import.translation import Node, Translation, as_dict, put

FILES = ("ann_file", "img_prefix")
DATASET = "TopDownCocoDataset"
MPII = "TopDownMpiiDataset"
# mmpose 0.x has no detections of these, and evaluates ground-truth boxes whatever the file says.
WITHOUT_DETECTIONS = (MPII, "OneHand10KDataset")
KEPT = (
    *("image_size", "heatmap_size", "use_gt_bbox", "det_bbox_thr"),
    *("oks_thr", "vis_thr", "soft_nms"),
)
READ_IN_TRAINING = ("image_size", "heatmap_size")


def translate_data(
    data: Node, result: Translation, data_root: str | None, *, head_joints: Any
) -> None:
    """Take `data`.

    Args:
        data_root: the file's variable of that name.
        head_joints: model.keypoint_head.num_joints.
    """
    for key in ("samples_per_gpu", "workers_per_gpu"):
        data.keep(key, f"data.{key}")
    train_loader = data.section("train_dataloader")
    for key in ("samples_per_gpu", "workers_per_gpu"):
        train_loader.keep(key, f"data.{key}")
    train_loader.finish()
    val_loader = data.section("val_dataloader")
    batch = val_loader.get("samples_per_gpu")
    val_loader.keep("samples_per_gpu", "data.val_dataloader.samples_per_gpu")
    val_loader.finish()
    test_loader = data.section("test_dataloader")
    test_loader.built_in("samples_per_gpu", (batch,), "evaluation has val_dataloader's")
    test_loader.finish()

    trained, original = as_dict(data.get("train")), as_dict(data.get("val"))
    train, val = (_dataset(data, split) for split in ("train", "val"))
    kinds = [str(values["type"]) for values in (trained, original)]
    files = {
        (split, key): _path(node, split, key)
        for split, node in (("train", train), ("val", val))
        for key in FILES
    }
    evaluation = as_dict(val.get("data_cfg"))
    by_kind = [[files[split, key] for split in ("train", "val")] for key in FILES]
    root = data_folder(data_root, *by_kind)
    result.experiment["data_root"] = root
    if data_root is None or root != posixpath.normpath(data_root):
        result.added.append(f"data_root = {root!r}  (the folder of all files of the data)")
    for (split, key), path in files.items():
        put(result.experiment, f"data.{split}.{key}", _below(path, root, result))

    translate_pipeline(train, "train", result)
    translate_pipeline(val, "val", result)
    info = read_dataset_info(val, kinds[1], result, evaluates=True)
    if kinds[0] == kinds[1] and trained.get("dataset_info") == original.get("dataset_info"):
        train.without_effect("dataset_info", "val's")
        number = put_skeleton(info, info, result)
    else:
        trained_info = read_dataset_info(train, kinds[0], result, evaluates=False)
        number = put_skeleton(trained_info, info, result)
    if isinstance(head_joints, int | float) and head_joints != number:
        raise UserError(
            f"model.keypoint_head.num_joints = {head_joints}, but data.val has {number} keypoints: "
            "set both to the same keypoints"
        )
    _evaluation_cfg(val.section("data_cfg"), result, root, number)
    if kinds[1] in WITHOUT_DETECTIONS and evaluation.get("use_gt_bbox") is not True:
        put(result.experiment, "data_cfg.use_gt_bbox", True)
        result.added.append(f"data_cfg.use_gt_bbox = True, as mmpose evaluates a {kinds[1]}")
    _training_cfg(train.section("data_cfg"), evaluation, number)
    for node in (train, val):
        node.finish()
    _test(data.section("test"), original)
    data.finish()


def _dataset(data: Node, split: str) -> Node:
    """Raises UserError for what is not one dataset of single objects."""
    values, path = data.get(split), data.path_of(split)
    if isinstance(values, list | tuple):
        raise UserError(
            f"{path} is a list of {len(values)} datasets: one can be trained or evaluated; merge "
            "their annotation files"
        )
    if isinstance(values, dict) and "dataset" in values:
        raise UserError(
            f"{path}.type is {describe(values.get('type'))}: name its `dataset` directly "
            "(RepeatDataset: total_epochs x times)"
        )
    kind = as_dict(values).get("type")
    if not isinstance(kind, str):
        raise UserError(f"{path}.type is {describe(kind)}, expected a type as '{DATASET}'")
    node = data.section(split)
    if kind == MPII:
        note = "its annotation files are lists of persons: convert them to COCO's format"
        node.unsupported("type", note)
    else:
        node.built_in("type", (*SKELETON_OF,), "its annotation file is read in COCO's format")
    return node


def _path(node: Node, split: str, key: str) -> str:
    path = node.take(key)
    if not isinstance(path, str) or not path:
        raise UserError(
            f"data.{split}.{key} is {describe(path)}: expected the path of one "
            f"{'annotation file' if key == 'ann_file' else 'folder of images'}"
        )
    return path


def _below(path: str, root: str, result: Translation) -> str:
    ours = relative_to(path, root)
    if not is_below(path, root):
        result.added.append(f"{path!r} lies outside of data_root: written as {ours!r}")
    return ours


def _evaluation_cfg(cfg: Node, result: Translation, root: str, num_joints: int) -> None:
    boxes = cfg.get("bbox_file")
    if boxes and isinstance(boxes, str):
        put(result.experiment, "data_cfg.bbox_file", _below(cfg.take("bbox_file"), root, result))
    elif cfg.get("use_gt_bbox") is True:
        cfg.without_effect("bbox_file", "evaluation has ground-truth boxes")
    else:  # mmpose would end there
        cfg.unsupported("bbox_file", "here the default file, else ground-truth boxes")
    for key in KEPT:
        cfg.keep(key, f"data_cfg.{key}")
    _joints(cfg, num_joints)
    cfg.built_in("use_nms", (True,))
    # Read by older versions only: the NMS of the detector's boxes.
    cfg.built_in("nms_thr", (1.0,))
    cfg.finish()


def _training_cfg(cfg: Node, evaluation: dict[str, Any], num_joints: int) -> None:
    for key in READ_IN_TRAINING:
        if key in evaluation:
            cfg.built_in(key, (evaluation[key],), "training has val's")
    for key in (*KEPT, "bbox_file", "use_nms", "nms_thr"):
        if key not in READ_IN_TRAINING:
            cfg.without_effect(key, "not used in training")
    _joints(cfg, num_joints)
    cfg.finish()


def _joints(cfg: Node, number: int) -> None:
    for key in ("num_output_channels", "num_joints"):
        check_joints(cfg, key, number)
    joints = list(range(number))
    cfg.built_in(
        "dataset_channel", ([joints], joints), "the model has all keypoints in their order"
    )
    cfg.built_in("inference_channel", (joints,), "all keypoints are evaluated, in their order")
    cfg.built_in("use_different_joint_weights", (False,))
    cfg.built_in("crowd_matching", (False,))


def _test(test: Node, val: dict[str, Any]) -> None:
    """What mmpose's tools/test.py evaluates; here it is the validation split."""
    note = "evaluation has val's"
    cfg = test.section("data_cfg")
    for key, value in as_dict(val.get("data_cfg")).items():
        cfg.built_in(key, (value,), note)
    cfg.finish()
    for key, value in val.items():
        test.built_in(key, (value,), note)
    test.finish()
