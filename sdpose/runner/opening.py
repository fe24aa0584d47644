"""What a run says when it begins, and the command that goes on with it."""

from __future__ import annotations

import torch

from sdpose.training.paths import EXPERIMENT_FILE
from sdpose.training.run import Run


def opening_line(run: Run) -> str:
    experiment, world = run.experiment, run.world
    if world.device.type == "cuda":
        device = torch.cuda.get_device_name(world.device)
    else:
        threads = torch.get_num_threads()
        device = f"CPU ({threads} thread{'s' * (threads > 1)})"
    parameters = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    clip, ema = experiment.optimizer_config.grad_clip, experiment.ema
    accumulated = experiment.optimizer_config.cumulative_iters
    switches = {
        **dict(run.options.names()),
        f"EMA {ema.decay:g}" if ema else "EMA": bool(ema),
        f"accumulation of {accumulated} batches" if accumulated > 1 else "accumulation": (
            accumulated > 1
        ),
        "SyncBN": experiment.sync_bn and world.size > 1,
        f"gradient clipping at {clip.max_norm:g}" if clip else "gradient clipping": bool(clip),
        "warmup": bool(experiment.lr_config.warmup and experiment.lr_config.warmup_iters),
    }
    on = ", ".join(name for name, is_on in switches.items() if is_on) or "nothing"
    off = ", ".join(name for name, is_on in switches.items() if not is_on) or "nothing"
    return (
        f"{experiment.exp_name}: {device} x {world.size} "
        f"process{'es' * (world.size > 1)}, global batch {run.progress.global_batch}, "
        f"{len(run.loader)} iterations/epoch ({run.loader.num_samples} persons), "
        f"{experiment.total_epochs} epochs, {parameters / 1e6:.2f} M parameters; "
        f"{experiment.optimizer.type}, lr {experiment.optimizer.lr:g} "
        f"({experiment.lr_config.policy}); "
        f"on: {on}; off: {off}"
    )


def resume_command(run: Run) -> str:
    """Works whatever the first command was: the work dir holds the whole resolved experiment."""
    launcher = "sdpose"
    if run.world.size > 1:
        launcher = f"sdpose launch --nproc-per-node {run.world.size}"
    return f"{launcher} train {run.paths.work_dir}/{EXPERIMENT_FILE} --resume-from auto"
