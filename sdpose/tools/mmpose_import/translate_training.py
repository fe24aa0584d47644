"""Optimizer, schedule, checkpoints, evaluation and logs of an mmpose configuration."""

from __future__ import annotations

from typing import Any

from sdpose.errors import UserError
from sdpose.tools.mmpose_import.translation import Node, Translation, as_list, put

# Computed for every skeleton but COCO's, without being said; PCKh where there are head boxes.
REPORTED = ("PCK", "PCKh")
OTHER_METRICS = (*REPORTED, "AUC", "EPE", "NME")

DEFAULT_SCHEDULE = "the experiment has the default schedule"


def translate_optimizer(node: Node, result: Translation) -> None:
    optimizer = node.section("optimizer")
    kind = optimizer.take("type")
    put(result.experiment, "optimizer.type", kind)
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
    clipping = config.section("grad_clip")
    for key in ("max_norm", "norm_type"):
        clipping.keep(key, f"optimizer_config.grad_clip.{key}")
    clipping.finish()
    config.finish()


def translate_schedule(node: Node, result: Translation) -> None:
    epochs = _epochs(node)
    result.experiment["total_epochs"] = epochs
    schedule = node.section("lr_config")
    policy = schedule.get("policy", "fixed")
    by_epoch = schedule.get("by_epoch", True) is True
    if policy == "CosineAnnealing":
        _cosine(schedule, by_epoch, result)
    elif policy not in ("step", "fixed"):
        schedule.unsupported("policy", DEFAULT_SCHEDULE)
    elif policy == "step" and not by_epoch:
        for key in ("by_epoch", "step", "gamma"):
            schedule.unsupported(key, f"counts iterations; {DEFAULT_SCHEDULE}")
        schedule.take("policy")
    else:
        schedule.take("policy")
        schedule.built_in("by_epoch", (True, False) if policy == "fixed" else (True,))
        steps = schedule.take("step") if policy == "step" else ()  # fixed: it never falls
        put(result.experiment, "lr_config.step", _milestones(steps, epochs))
        if policy == "step":
            schedule.keep("gamma", "lr_config.gamma", default=0.1)
    _warmup(schedule, result)
    schedule.finish()


def _epochs(node: Node) -> Any:
    """mmpose 0.x trains total_epochs epochs by EpochBasedRunner, whatever `runner` says."""
    runner = node.section("runner")
    total = node.take("total_epochs")
    if total is None:
        total = runner.take("max_epochs")
    if total is None:
        raise UserError("total_epochs is not set: mmpose 0.x trains as many epochs as it says")
    note = "mmpose 0.x does not read it"
    runner.built_in("type", ("EpochBasedRunner",), note)
    runner.built_in("max_epochs", (total,), f"mmpose 0.x trains total_epochs = {total}")
    runner.finish()
    return total


def _cosine(schedule: Node, by_epoch: bool, result: Translation) -> None:
    put(result.experiment, "lr_config.policy", "cosine")
    if by_epoch:
        schedule.unsupported("policy", "by epoch; here the learning rate falls every iteration")
        schedule.built_in("by_epoch", (True,))
    else:
        schedule.take("policy")
        schedule.built_in("by_epoch", (False,))
    lr = result.experiment["optimizer"].get("lr", 1e-3)
    min_lr, ratio = schedule.get("min_lr"), schedule.get("min_lr_ratio")
    if isinstance(min_lr, int | float) and isinstance(lr, int | float) and lr:
        ratio = schedule.take("min_lr") / lr
    elif min_lr is None:
        schedule.take("min_lr")
        ratio = schedule.take("min_lr_ratio")
    put(result.experiment, "lr_config.min_lr_ratio", ratio or 0.0)


def _warmup(schedule: Node, result: Translation) -> None:
    warmup = schedule.get("warmup")
    if warmup not in (None, "linear"):
        schedule.unsupported("warmup", "no warm-up instead")
        warmup = None
    schedule.take("warmup")
    put(result.experiment, "lr_config.warmup", warmup)
    keys = ("warmup_iters", "warmup_ratio")
    if not warmup:
        for key in (*keys, "warmup_by_epoch"):
            schedule.without_effect(key, "there is no warm-up")
    elif schedule.get("warmup_by_epoch", False) is not False:
        for key in (*keys, "warmup_by_epoch"):
            schedule.unsupported(key, "counts epochs; the experiment has the default warm-up")
    else:
        schedule.built_in("warmup_by_epoch", (False,))
        for key, default in zip(keys, (0, 0.1), strict=True):
            schedule.keep(key, f"lr_config.{key}", default=default)


def _milestones(step: Any, epochs: Any) -> Any:
    """mmcv's `step`: epochs, or one number that stands for every so many. Else as it is."""
    if isinstance(step, int) and isinstance(epochs, int) and step > 0 and epochs / step < 10_000:
        return list(range(step, epochs, step))
    return () if step is None else step


def translate_outputs(node: Node, result: Translation) -> None:
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
    _metric(evaluation)
    # mmpose before 0.14 says key_indicator
    key = "key_indicator" if evaluation.get("save_best") is None else "save_best"
    best = evaluation.get(key)
    if best in ("AP", "auto", None):
        put(result.experiment, "evaluation.save_best", evaluation.take(key) and "AP")
    elif best in OTHER_METRICS:
        put(result.experiment, "evaluation.save_best", "AP")
        evaluation.unsupported(key, "best_*.pth is that of AP")
    else:
        put(result.experiment, "evaluation.save_best", None)
        evaluation.unsupported(key, "no best_*.pth is kept")
    evaluation.take("save_best")
    evaluation.built_in("rule", ("greater",))
    evaluation.built_in("by_epoch", (True,))
    evaluation.built_in("gpu_collect", (True, False))
    evaluation.finish()

    log = node.section("log_config")
    log.keep("interval", "log_config.interval", default=10)
    _hooks(log, result)
    log.finish()


def _metric(evaluation: Node) -> None:
    metric = evaluation.get("metric")
    lost = [each for each in as_list(metric) or [metric] if each not in ("mAP", *REPORTED)]
    if lost:
        names = ", ".join(str(each) for each in lost)
        evaluation.unsupported("metric", f"{names}: not computed; here AP, PCK and PCKh")
    else:
        evaluation.without_effect("metric", "AP; PCK and PCKh where they apply")


def _hooks(log: Node, result: Translation) -> None:
    hooks = []
    given, path = log.get("hooks"), log.path_of("hooks")
    if given is None or isinstance(given, list | tuple):
        log.take("hooks")
    for index, values in enumerate(as_list(given)):
        hook = Node(values, f"{path}[{index}]", result)
        kind = hook.get("type")
        if kind in ("TextLoggerHook", "TensorboardLoggerHook", "MlflowLoggerHook"):
            hooks.append({"type": hook.take("type")})
            hook.finish()
        else:
            result.not_supported(f"{path}[{index}]", values)
    if {"type": "MlflowLoggerHook"} not in hooks:
        hooks.append({"type": "MlflowLoggerHook"})
        result.added.append(
            "log_config.hooks: MlflowLoggerHook, so that runs can be compared  "
            "(off: --set log_config.hooks=[TextLoggerHook])"
        )
    put(result.experiment, "log_config.hooks", hooks)
