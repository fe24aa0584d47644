"""Optimizer, schedule, checkpoints, evaluation and logs of an mmpose configuration."""

from __future__ import annotations

from typing import Any

from sdpose.config.legacy.translation import Node, Translation, as_list, line, put


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
    clip = config.take("grad_clip")
    if clip is not None:
        clipping = Node(clip, "optimizer_config.grad_clip", result)
        for key in ("max_norm", "norm_type"):
            clipping.keep(key, f"optimizer_config.grad_clip.{key}")
        clipping.finish()
    config.finish()


def translate_schedule(node: Node, result: Translation) -> None:
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
        put(result.experiment, "lr_config.step", _milestones(schedule.take("step"), epochs))
        schedule.keep("gamma", "lr_config.gamma", default=0.1)
    elif policy == "CosineAnnealing":
        put(result.experiment, "lr_config.policy", "cosine")
        lr = result.experiment["optimizer"].get("lr", 1e-3)
        min_lr = schedule.take("min_lr")
        ratio = schedule.take("min_lr_ratio")
        if isinstance(min_lr, int | float) and isinstance(lr, int | float) and lr:
            ratio = min_lr / lr
        elif min_lr is not None:
            result.unsupported.append(line("lr_config.min_lr", min_lr))
        put(result.experiment, "lr_config.min_lr_ratio", ratio or 0.0)
        result.unsupported.append(
            "lr_config: CosineAnnealing by epoch  (here the learning rate falls every iteration)"
        )
    else:
        result.unsupported.append(
            f"{line('lr_config.policy', policy)}  (the experiment has the default schedule)"
        )
    if warmup not in (None, "linear"):
        result.unsupported.append(f"{line('lr_config.warmup', warmup)}  (no warm-up instead)")
        warmup = None
    put(result.experiment, "lr_config.warmup", warmup)
    if warmup:
        schedule.keep("warmup_iters", "lr_config.warmup_iters", default=0)
        schedule.keep("warmup_ratio", "lr_config.warmup_ratio", default=0.1)
    schedule.built_in("by_epoch", (True,))
    schedule.built_in("warmup_by_epoch", (False,))
    schedule.finish()


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
    evaluation.built_in("metric", ("mAP", ["mAP"]))
    indicator = evaluation.take("key_indicator")  # mmpose before 0.14
    best = evaluation.take("save_best", indicator)
    put(result.experiment, "evaluation.save_best", "AP" if best in ("AP", "auto") else None)
    if best not in ("AP", "auto", None):
        result.unsupported.append(line("evaluation.save_best", best))
    evaluation.built_in("rule", ("greater",))
    evaluation.built_in("by_epoch", (True,))
    evaluation.built_in("gpu_collect", (True, False))
    evaluation.finish()

    log = node.section("log_config")
    log.keep("interval", "log_config.interval", default=10)
    hooks = []
    given = log.take("hooks")
    if given is not None and not isinstance(given, list | tuple):
        result.unsupported.append(line("log_config.hooks", given))
    for index, values in enumerate(as_list(given)):
        hook = Node(values, f"log_config.hooks[{index}]", result)
        kind = hook.take("type")
        if kind in ("TextLoggerHook", "TensorboardLoggerHook", "MlflowLoggerHook"):
            hooks.append({"type": kind})
            hook.finish()
        else:
            result.unsupported.append(line(f"log_config.hooks[{index}]", values))
    put(result.experiment, "log_config.hooks", hooks)
    log.finish()
