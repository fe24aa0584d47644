"""From an mmpose 0.x configuration of SDPose to an experiment, setting by setting.

Every setting of the file ends in one of three lists: what is taken into the experiment, what is
built in (the value is compared with the one here), and what is not supported. mmcv's and mmpose's
own defaults, where they differ from ours, are written out.
"""

from __future__ import annotations

from typing import Any

from sdpose.documents import describe
from sdpose.errors import UserError
from sdpose.tools.mmpose_import.translate_data import translate_data
from sdpose.tools.mmpose_import.translate_training import (
    translate_optimizer,
    translate_outputs,
    translate_schedule,
)
from sdpose.tools.mmpose_import.translation import Node, Translation, as_dict, as_list, put

# What mmpose's training script reads at the top level; other names are the file's own variables.
READ_BY_MMPOSE = {
    *("model", "data", "optimizer", "optimizer_config", "lr_config", "runner", "total_epochs"),
    *("checkpoint_config", "evaluation", "log_config", "log_level", "load_from", "resume_from"),
    *("dist_params", "workflow", "work_dir", "seed", "gpu_ids", "fp16", "custom_hooks"),
    *("custom_imports", "cudnn_benchmark", "find_unused_parameters", "deterministic"),
    *("opencv_num_threads", "mp_start_method", "use_adversarial_train", "auto_resume"),
}


# Top-level names of mmpose 1.x and mmengine; 0.x has `data` instead.
OF_MMPOSE_1 = {
    *("optim_wrapper", "train_dataloader", "val_dataloader", "default_scope", "default_hooks"),
    *("param_scheduler", "train_cfg", "val_evaluator", "visualizer", "codec"),
}


def translate(config: dict[str, Any], name: str) -> Translation:
    """The settings of a configuration under our keys.

    Args:
        config: what `read_python_config` gave.
        name: the experiment's if the file sets no `exp_name`: the file's own, as mmpose names the
            work dir.
    Raises:
        UserError: it is of mmpose 1.x, trains no SDPose or not one dataset, its parts disagree on
            the keypoints, or a value has a type that cannot be read.
    """
    result = Translation()
    try:
        _translate(config, name, result)
    except UserError:
        raise
    except (TypeError, AttributeError, LookupError, ValueError, ArithmeticError) as error:
        raise UserError(f"{result.at}: a value of this type cannot be read: {error}") from None
    return result


def _translate(config: dict[str, Any], name: str, result: Translation) -> None:
    newer = sorted(config.keys() & OF_MMPOSE_1)
    if newer and "data" not in config:
        raise UserError(
            f"this is a configuration of mmpose 1.x ({', '.join(newer[:3])}): only those of "
            "mmpose 0.x can be imported; write an experiment with `base: sdpose_s_v1` instead"
        )
    head = as_dict(as_dict(config.get("model")).get("keypoint_head"))
    if head.get("type") != "SDPoseHead":
        raise UserError(
            f"the configuration's model.keypoint_head.type is {describe(head.get('type'))}; only "
            "models with an SDPoseHead can be imported"
        )
    rest = {key: value for key, value in config.items() if key in READ_BY_MMPOSE}
    node = Node(rest, "", result)
    result.experiment["exp_name"] = str(config.get("exp_name", name))
    for key in ("work_dir", "seed"):
        node.keep(key, key, skip=(None,))
    for key in ("load_from", "resume_from"):
        node.keep_file(key, key)
    data_root = config.get("data_root")
    if not isinstance(data_root, str | None):
        raise UserError(f"data_root is {describe(data_root)}: expected the path of a folder")
    joints = _model(node.section("model"), result)
    translate_data(node.section("data"), result, data_root or None, head_joints=joints)
    translate_optimizer(node, result)
    translate_schedule(node, result)
    translate_outputs(node, result)
    for key, values in {
        "dist_params": ({"backend": "nccl"},),
        "workflow": ([("train", 1)], [["train", 1]]),
        "log_level": ("INFO",),
        "gpu_ids": (range(1), [0]),
        "cudnn_benchmark": (True, False),
        "find_unused_parameters": (True, False),
    }.items():
        node.built_in(key, values)
    node.finish()


def _model(model: Node, result: Translation) -> Any:
    """Take `model`; return its number of joints."""
    model.built_in("type", ("TopDown",))
    model.built_in("train_cfg", ({}, None))
    model.keep_file("pretrained", "model.pretrained")
    backbone = model.section("backbone")
    kind = backbone.take("type")
    put(result.experiment, "model.backbone.type", kind)
    width = 64
    if kind == "HRNet_3stage":
        width = _hrnet(backbone, result)
    backbone.built_in("in_channels", (3,))
    backbone.finish()

    head = model.section("keypoint_head")
    head.built_in("type", ("SDPoseHead",))
    head.built_in("in_channels", (width if kind == "HRNet_3stage" else 4 * width,))
    joints = head.take("num_joints")
    keypoint = head.section("loss_keypoint")
    target = "model.keypoint_head.loss_keypoint"
    for key in ("type", "loss_weight"):
        keypoint.keep(key, f"{target}.{key}")
    keypoint.keep("use_target_weight", f"{target}.use_target_weight", default=False)
    keypoint.finish()
    for key in ("loss_vis_token_dist", "loss_kpt_token_dist"):
        _token_loss(head, key, result)
    tokens = head.section("tokenpose_cfg")
    for key in ("feature_size", "heatmap_size", "patch_size", "dim", "depth", "heads"):
        tokens.keep(key, f"model.keypoint_head.tokenpose_cfg.{key}")
    for key in ("mlp_ratio", "pos_embedding_type", "cycle_num"):
        tokens.keep(key, f"model.keypoint_head.tokenpose_cfg.{key}")
    tokens.built_in("apply_init", (True,))
    for key in ("dropout", "emb_dropout"):
        tokens.built_in(key, (0,))
    tokens.finish()
    head.finish()

    test = model.section("test_cfg")
    # mmpose's defaults where the file is silent
    for key, default in {
        "flip_test": True,
        "post_process": "default",
        "shift_heatmap": False,
        "modulate_kernel": 11,
    }.items():
        test.keep(key, f"model.test_cfg.{key}", default=default)
    test.finish()
    model.finish()
    return joints


def _hrnet(backbone: Node, result: Translation) -> int:
    """HRNet-W `width` as it is built here, else the structure is reported; the width."""
    stages = {"num_modules": (1, 1, 4), "num_branches": (1, 2, 3)}
    extra = backbone.section("extra")
    channels = as_list(as_dict(extra.get("stage2")).get("num_channels"))
    width = channels[0] if channels and isinstance(channels[0], int) else 32
    for index in (1, 2, 3):
        stage = extra.section(f"stage{index}")
        for key, values in stages.items():
            stage.built_in(key, (values[index - 1],))
        stage.built_in("block", ("BOTTLENECK" if index == 1 else "BASIC",))
        stage.built_in("num_blocks", ((4,) * index, [4] * index))
        expected = tuple(width * 2**branch for branch in range(index))
        stage.built_in("num_channels", (expected, list(expected)))
        stage.finish()
    extra.finish()
    put(result.experiment, "model.backbone.width", width)
    return width


def _token_loss(head: Node, key: str, result: Translation) -> None:
    target = f"model.keypoint_head.{key}"
    value = head.get(key)
    kind = as_dict(value).get("type")
    if value is None:
        head.take(key)
        put(result.experiment, target, None)
    elif kind not in ("TokenDistilLoss", "MaskedTokenDistilLoss"):
        put(result.experiment, target, None)
        head.unsupported(key, "the experiment has no such loss")
    else:
        loss = head.section(key)
        loss.keep("type", f"{target}.type")
        loss.keep("loss_weight", f"{target}.loss_weight", default=1.0)
        loss.built_in("dist_type", ("L2",))
        for option in ("mask_ratio", "mask_strategy", "detach_teacher"):
            loss.keep(option, f"{target}.{option}")
        loss.finish()
