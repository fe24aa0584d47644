"""From an mmpose 0.x configuration of SDPose to an experiment, setting by setting.

Every setting of the file ends in exactly one of three lists: what the experiment keeps, what is
the same here without being said (checked: the value must be the one that is built in), and what is
not supported. mmcv's and mmpose's own defaults, where they differ from ours, are written out.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field
from typing import Any

from sdpose.errors import UserError

_MISSING = object()

# What mmpose's training script reads at the top level; other names are the file's own variables.
READ_BY_MMPOSE = {
    *("model", "data", "optimizer", "optimizer_config", "lr_config", "runner", "total_epochs"),
    *("checkpoint_config", "evaluation", "log_config", "log_level", "load_from", "resume_from"),
    *("dist_params", "workflow", "work_dir", "seed", "gpu_ids", "fp16", "custom_hooks"),
    *("custom_imports", "cudnn_benchmark", "find_unused_parameters", "deterministic"),
    *("opencv_num_threads", "mp_start_method", "use_adversarial_train", "auto_resume"),
}


@dataclass
class Translation:
    """`experiment`: keys of ours, nested. The lists hold `path = value` lines of the file."""

    experiment: dict[str, Any] = field(default_factory=dict)
    built_in: list[str] = field(default_factory=list)
    unsupported: list[str] = field(default_factory=list)


def translate(config: dict[str, Any], name: str) -> Translation:
    """`config`: what `read_python_config` gave; `name`: of the file, the experiment's if the file
    sets no `exp_name` (mmpose names the work dir so). UserError if it trains no SDPose."""
    head = config.get("model", {}).get("keypoint_head", {})
    if head.get("type") != "SDPoseHead":
        raise UserError(
            f"the configuration's model.keypoint_head.type is {head.get('type')!r}; only models "
            "with an SDPoseHead can be imported"
        )
    result = Translation()
    rest = {key: value for key, value in config.items() if key in READ_BY_MMPOSE}
    node = _Node(rest, "", result)
    result.experiment["exp_name"] = str(config.get("exp_name", name))
    for key in ("work_dir", "seed"):
        node.keep(key, key, skip=(None,))
    for key in ("load_from", "resume_from"):
        node.keep_file(key, key)
    data_root = str(config.get("data_root", ""))
    if data_root:
        result.experiment["data_root"] = posixpath.normpath(data_root)
    _model(node.section("model"), result)
    _data(node.section("data"), result, data_root)
    _optimizer(node, result)
    _schedule(node, result)
    _outputs(node, result)
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
    return result


class _Node:
    """A dictionary of the file, from which settings are taken until nothing is left."""

    def __init__(self, values: Any, path: str, result: Translation) -> None:
        self._values = dict(values) if isinstance(values, dict) else {}
        self._path, self._result = path, result

    def section(self, key: str) -> _Node:
        value = self._values.get(key)
        if value is None or isinstance(value, dict):
            self._values.pop(key, None)
            return _Node(value, self._at(key), self._result)
        return _Node(None, self._at(key), self._result)  # not a dict: stays, is reported

    def take(self, key: str, default: Any = None) -> Any:
        return self._values.pop(key, default)

    def keep(
        self, key: str, target: str, *, default: Any = _MISSING, skip: tuple[Any, ...] = ()
    ) -> None:
        """Writes a setting under our key; `default` is mmpose's, written where the file is
        silent."""
        value = self._values.pop(key, default)
        if value is not _MISSING and value not in skip:
            _put(self._result.experiment, target, value)

    def keep_file(self, key: str, target: str) -> None:
        """Writes the path of a weights file; mmcv downloads addresses, which we do not."""
        if "://" in str(self._values.get(key)):
            self.unsupported(key, f"download it, then set {target} to the file")
        else:
            self.keep(key, target, skip=(None,))

    def built_in(self, key: str, values: tuple[Any, ...]) -> None:
        """A setting that has one of these values here without being said."""
        if key in self._values and self._values[key] in values:
            self._result.built_in.append(_line(self._at(key), self._values.pop(key)))

    def unsupported(self, key: str, note: str = "") -> None:
        if key in self._values:
            text = _line(self._at(key), self._values.pop(key))
            self._result.unsupported.append(f"{text}  ({note})" if note else text)

    def finish(self) -> None:
        for key in list(self._values):
            self.unsupported(key)

    def _at(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key


def _put(experiment: dict[str, Any], target: str, value: Any) -> None:
    *sections, key = target.split(".")
    for section in sections:
        experiment = experiment.setdefault(section, {})
    experiment[key] = value


def _line(path: str, value: Any) -> str:
    text = repr(value)
    return f"{path} = {text if len(text) <= 100 else text[:97] + '...'}"


# ---------------------------------------------------------------------------------------- model


def _model(model: _Node, result: Translation) -> None:
    model.built_in("type", ("TopDown",))
    model.built_in("train_cfg", ({}, None))
    model.keep_file("pretrained", "model.pretrained")
    backbone = model.section("backbone")
    kind = backbone.take("type")
    _put(result.experiment, "model.backbone.type", kind)
    width = 64
    if kind == "HRNet_3stage":
        width = _hrnet(backbone, result)
    backbone.built_in("in_channels", (3,))
    backbone.finish()

    head = model.section("keypoint_head")
    head.built_in("type", ("SDPoseHead",))
    head.built_in("in_channels", (width if kind == "HRNet_3stage" else 4 * width,))
    head.built_in("num_joints", (17,))
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


def _hrnet(backbone: _Node, result: Translation) -> int:
    """HRNet-W `width` as it is built here, else the structure is reported; the width."""
    stages = {"num_modules": (1, 1, 4), "num_branches": (1, 2, 3)}
    extra = backbone.take("extra") or {}
    width = int(extra.get("stage2", {}).get("num_channels", (32,))[0])
    for index in (1, 2, 3):
        stage = _Node(extra.pop(f"stage{index}", {}), f"model.backbone.extra.stage{index}", result)
        for key, values in stages.items():
            stage.built_in(key, (values[index - 1],))
        stage.built_in("block", ("BOTTLENECK" if index == 1 else "BASIC",))
        stage.built_in("num_blocks", ((4,) * index, [4] * index))
        channels = tuple(width * 2**branch for branch in range(index))
        stage.built_in("num_channels", (channels, list(channels)))
        stage.finish()
    _Node(extra, "model.backbone.extra", result).finish()
    _put(result.experiment, "model.backbone.width", width)
    return width


def _token_loss(head: _Node, key: str, result: Translation) -> None:
    target = f"model.keypoint_head.{key}"
    value = head.take(key)
    loss = _Node(value, target, result)
    kind = loss.take("type", "")
    if value is None:
        _put(result.experiment, target, None)
    elif kind not in ("TokenDistilLoss", "MaskedTokenDistilLoss"):
        _put(result.experiment, target, None)
        result.unsupported.append(f"{_line(target, value)}  (the experiment has no such loss)")
    else:
        _put(result.experiment, f"{target}.type", kind)
        for option in ("loss_weight", "mask_ratio", "mask_strategy", "detach_teacher"):
            loss.keep(option, f"{target}.{option}")
        loss.finish()


# ----------------------------------------------------------------------------------------- data


def _data(data: _Node, result: Translation, data_root: str) -> None:
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
            _put(result.experiment, "data.val_dataloader.samples_per_gpu", batch)
        section.finish()
    settings: dict[str, Any] = {}
    for split in ("train", "val", "test"):
        section = data.section(split)
        section.built_in("type", ("TopDownCocoDataset",))
        files = {key: _below(section.take(key), data_root) for key in ("ann_file", "img_prefix")}
        settings[split] = (files, section.take("data_cfg") or {})
        _pipeline(section, split, result)
        info = section.take("dataset_info") or {}
        if info and info.get("dataset_name") not in ("coco", None):
            name = f"data.{split}.dataset_info.dataset_name"
            result.unsupported.append(_line(name, info["dataset_name"]))
        section.finish()
        if split != "test":
            for key, value in files.items():
                if value is not None:
                    _put(result.experiment, f"data.{split}.{key}", value)
    data.finish()
    if settings["test"][0] != settings["val"][0]:
        result.unsupported.append(f"{_line('data.test', settings['test'][0])}  (val is tested)")
    _data_cfg(settings["train"][1], settings["val"][1], result, data_root)


def _data_cfg(
    train: dict[str, Any], val: dict[str, Any], result: Translation, data_root: str
) -> None:
    evaluation = _Node(val, "data_cfg", result)
    for key in ("image_size", "heatmap_size", "use_gt_bbox", "det_bbox_thr", "oks_thr", "vis_thr"):
        evaluation.keep(key, f"data_cfg.{key}")
    evaluation.keep("soft_nms", "data_cfg.soft_nms")
    bbox_file = evaluation.take("bbox_file")
    if bbox_file:
        _put(result.experiment, "data_cfg.bbox_file", _below(bbox_file, data_root))
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
                f"{_line(f'data.train.data_cfg.{key}', train[key])}  (training has val's)"
            )


def _below(path: Any, data_root: str) -> str | None:
    """A path relative to data_root where it lies there; else as it is."""
    if path is None:
        return None
    path, root = posixpath.normpath(path), posixpath.normpath(data_root) if data_root else ""
    return path.removeprefix(root + "/") if root else path


def _pipeline(section: _Node, split: str, result: Translation) -> None:
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
    seen: set[str] = set()
    for index, values in enumerate(pipeline):
        step = _Node(values, f"data.{split}.pipeline[{index}]", result)
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
            result.unsupported.append(_line(f"data.{split}.pipeline[{index}]", values))
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
                _put(result.experiment, f"train_pipeline.{ours}", absent[ours])
        if "TopDownGetRandomScaleRotation" not in seen:
            for key in ("rot_prob", "scale_factor"):
                _put(result.experiment, f"train_pipeline.{key}", 0.0)


# ------------------------------------------------------------------------------------- training


def _optimizer(node: _Node, result: Translation) -> None:
    optimizer = node.section("optimizer")
    kind = optimizer.take("type")
    _put(result.experiment, "optimizer.type", kind)
    optimizer.keep("lr", "optimizer.lr")
    # PyTorch's defaults
    optimizer.keep(
        "weight_decay", "optimizer.weight_decay", default=0.01 if kind == "AdamW" else 0.0
    )
    if kind == "SGD":
        optimizer.keep("momentum", "optimizer.momentum", default=0.0)
        optimizer.built_in("nesterov", (False,))
    else:
        optimizer.keep("betas", "optimizer.betas")
        optimizer.built_in("eps", (1e-8,))
        optimizer.built_in("amsgrad", (False,))
    optimizer.finish()
    config = node.section("optimizer_config")
    config.built_in("type", ("OptimizerHook",))
    clip = config.take("grad_clip")
    if clip is not None:
        clipping = _Node(clip, "optimizer_config.grad_clip", result)
        for key in ("max_norm", "norm_type"):
            clipping.keep(key, f"optimizer_config.grad_clip.{key}")
        clipping.finish()
    config.finish()


def _schedule(node: _Node, result: Translation) -> None:
    runner = node.section("runner")
    runner.built_in("type", ("EpochBasedRunner",))
    epochs = runner.take("max_epochs", node.take("total_epochs"))
    node.take("total_epochs")
    runner.finish()
    if epochs is not None:
        result.experiment["total_epochs"] = epochs
    schedule = node.section("lr_config")
    policy = schedule.take("policy", "fixed")
    warmup = schedule.take("warmup")
    if policy == "step":
        step = schedule.take("step")
        if isinstance(step, int):  # every so many epochs
            step = list(range(step, int(epochs or 0), step))
        _put(result.experiment, "lr_config.step", list(step or ()))
        schedule.keep("gamma", "lr_config.gamma", default=0.1)
    elif policy == "CosineAnnealing":
        _put(result.experiment, "lr_config.policy", "cosine")
        lr = result.experiment["optimizer"].get("lr", 1e-3)
        min_lr = schedule.take("min_lr")
        ratio = schedule.take("min_lr_ratio")
        ratio = min_lr / lr if min_lr is not None else ratio
        _put(result.experiment, "lr_config.min_lr_ratio", ratio or 0.0)
        result.unsupported.append(
            "lr_config: CosineAnnealing by epoch  (here the learning rate falls every iteration)"
        )
    else:
        result.unsupported.append(
            f"{_line('lr_config.policy', policy)}  (the experiment has the default schedule)"
        )
    if warmup not in (None, "linear"):
        result.unsupported.append(f"{_line('lr_config.warmup', warmup)}  (no warm-up instead)")
        warmup = None
    _put(result.experiment, "lr_config.warmup", warmup)
    if warmup:
        schedule.keep("warmup_iters", "lr_config.warmup_iters", default=0)
        schedule.keep("warmup_ratio", "lr_config.warmup_ratio", default=0.1)
    schedule.built_in("by_epoch", (True,))
    schedule.built_in("warmup_by_epoch", (False,))
    schedule.finish()


# -------------------------------------------------------------------------------------- outputs


def _outputs(node: _Node, result: Translation) -> None:
    checkpoints = node.section("checkpoint_config")
    checkpoints.keep("interval", "checkpoint_config.interval", default=1)
    for key in ("max_keep_ckpts", "save_last", "out_dir"):
        checkpoints.keep(key, f"checkpoint_config.{key}")
    checkpoints.built_in("by_epoch", (True,))
    checkpoints.built_in("save_optimizer", (True,))
    checkpoints.built_in("create_symlink", (True, False))  # latest.pth is always there
    checkpoints.finish()

    evaluation = node.section("evaluation")
    evaluation.keep("interval", "evaluation.interval", default=1)
    evaluation.built_in("metric", ("mAP", ["mAP"]))
    indicator = evaluation.take("key_indicator")  # mmpose before 0.14
    best = evaluation.take("save_best", indicator)
    _put(result.experiment, "evaluation.save_best", "AP" if best in ("AP", "auto") else None)
    if best not in ("AP", "auto", None):
        result.unsupported.append(_line("evaluation.save_best", best))
    evaluation.built_in("rule", ("greater",))
    evaluation.built_in("by_epoch", (True,))
    evaluation.built_in("gpu_collect", (True, False))
    evaluation.finish()

    log = node.section("log_config")
    log.keep("interval", "log_config.interval", default=10)
    hooks = []
    for index, values in enumerate(log.take("hooks") or ()):
        hook = _Node(values, f"log_config.hooks[{index}]", result)
        kind = hook.take("type")
        if kind in ("TextLoggerHook", "TensorboardLoggerHook", "MlflowLoggerHook"):
            hooks.append({"type": kind})
            hook.finish()
        else:
            result.unsupported.append(_line(f"log_config.hooks[{index}]", values))
    _put(result.experiment, "log_config.hooks", hooks)
    log.finish()
