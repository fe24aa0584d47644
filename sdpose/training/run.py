"""What a run works with, and how it is put together from an experiment and a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from sdpose.config import Experiment
from sdpose.data.loader import TrainLoader, build_train_loader
from sdpose.data.prepare import PreparedDataset, unusable_images
from sdpose.losses import build_loss
from sdpose.models import SDPose, build_model
from sdpose.models.weights import load_backbone_weights, load_weights
from sdpose.outputs.lease import Lease
from sdpose.outputs.mirror import Mirror
from sdpose.outputs.saver import CheckpointSaver, NoSaver
from sdpose.outputs.sinks import Events
from sdpose.pack_store import open_pack
from sdpose.runner.stop_signals import StopSignals
from sdpose.storage import open_store
from sdpose.training.checkpoint import Checkpoint, training_weights
from sdpose.training.distributed import World, on_main
from sdpose.training.divergence import LossWatch
from sdpose.training.ema import AveragedModel
from sdpose.training.meters import Progress, Stopwatch
from sdpose.training.optim import (
    Schedule,
    build_optimizer,
    build_schedule,
    load_optimizer_state,
)
from sdpose.training.options import StepOptions, step_options
from sdpose.training.parallel_model import distribute
from sdpose.training.paths import (
    EXPERIMENT_FILE,
    OWN_FILES,
    PROGRESS_FILE,
    checkpoint_folder,
    mirror_uri,
    work_dir_of,
)
from sdpose.training.records import Say
from sdpose.training.workdir import Start


@dataclass
class Run:
    experiment: Experiment
    world: World
    stop: StopSignals
    events: Events
    folder: Path  # of the checkpoints
    dataset: PreparedDataset
    loader: TrainLoader
    model: nn.Module
    parallel_model: nn.Module  # the same, as the step calls it
    loss: nn.Module
    options: StepOptions
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None  # fp16 only
    average: AveragedModel | None  # with `ema`
    schedule: Schedule
    progress: Progress
    watch: LossWatch
    saver: CheckpointSaver | NoSaver
    mlflow_run_id: str | None = None
    stopwatch: Stopwatch = field(default_factory=Stopwatch)
    evaluation_seconds: float = 0.0

    @property
    def evaluated_model(self) -> nn.Module:
        """The one that checkpoints hold as `state_dict`: the average, where there is one."""
        return self.model if self.average is None else self.average.model

    @property
    def total_iterations(self) -> int:
        return len(self.loader) * self.experiment.total_epochs


def build_run(
    experiment: Experiment,
    world: World,
    stop: StopSignals,
    events: Events,
    start: Start,
    dataset: PreparedDataset,
    lease: Lease | None,
) -> Run:
    """All that a run works with, as the checkpoint left it. lease: of the mirror, on rank 0."""
    torch.manual_seed(experiment.seed)
    torch.backends.cudnn.benchmark = True  # all batches have one shape
    model = build_model(experiment.model)
    # Read once and sent to all: only rank 0 needs the files.
    model.load_state_dict(
        on_main(world, lambda: _initial_weights(experiment, model, start, events.say))
    )
    model.to(world.device)
    options = step_options(experiment, world.device)
    options.prepare(model)
    optimizer = build_optimizer(model.parameters(), experiment.optimizer, fused=options.fused)
    scaler, watch = options.scaler(), LossWatch(world, experiment.loss_spike)
    ema = experiment.ema
    average = AveragedModel(model, decay=ema.decay, warm_up=ema.warm_up) if ema else None
    progress = Progress()
    if start.checkpoint is not None:
        progress = Progress.of(start.checkpoint["meta"])
        restore(start.checkpoint, optimizer, scaler, average, watch)
    loader = build_train_loader(
        experiment,
        rank=world.rank,
        world_size=world.size,
        skip_images=on_main(world, lambda: unusable_images(experiment, "train")),
        pack=open_pack(dataset.pack) if dataset.pack else None,
    )
    note = progress.continue_with(loader.global_batch, len(loader))
    if note:
        events.say(note)
    folder = checkpoint_folder(experiment)
    best = best_checkpoint(folder, progress)
    is_this = progress.best_epoch == progress.epoch and not progress.iteration_in_epoch
    if best is not None and not best.exists() and not is_this:  # continued from another folder
        progress.best_epoch, progress.best_metrics = 0, {}
    return Run(
        experiment=experiment,
        world=world,
        stop=stop,
        events=events,
        folder=folder,
        dataset=dataset,
        loader=loader,
        model=model,
        parallel_model=distribute(model, world, sync_bn=experiment.sync_bn),
        loss=build_loss(experiment.model.keypoint_head),
        options=options,
        optimizer=optimizer,
        scaler=scaler,
        average=average,
        schedule=build_schedule(experiment, len(loader)),
        progress=progress,
        watch=watch,
        saver=build_saver(experiment, events.say, start, lease) if world.is_main else NoSaver(),
    )


def build_saver(
    experiment: Experiment, say: Say, start: Start, lease: Lease | None
) -> CheckpointSaver:
    settings, folder = experiment.checkpoint_config, checkpoint_folder(experiment)
    uri, mirror = mirror_uri(experiment), None
    if uri is not None:
        assert lease is not None
        mirror = Mirror(
            open_store(uri),
            lease,
            work_dir=work_dir_of(experiment),
            folder=folder,
            own_files=OWN_FILES,
            live_files=(PROGRESS_FILE,),
            keep=settings.max_keep_ckpts,
            say=say,
        )
        if start.checkpoint is not None:
            mirror.upload_all(start.checkpoint["meta"])
    return CheckpointSaver(
        folder,
        say,
        keep=settings.max_keep_ckpts,
        interval_minutes=settings.interval_minutes,
        mirror=mirror,
    )


def restore(
    checkpoint: Checkpoint,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
    average: AveragedModel | None,
    watch: LossWatch,
) -> None:
    """All that moves with the weights under training, as the checkpoint has it."""
    load_optimizer_state(optimizer, checkpoint["optimizer"])
    if scaler is not None and "scaler" in checkpoint:
        scaler.load_state_dict(checkpoint["scaler"])
    if average is not None:  # without one there, the average begins with the weights
        average.model.load_state_dict(checkpoint["state_dict"])
    if "usual_loss" in checkpoint:
        watch.state.copy_(checkpoint["usual_loss"])


def _initial_weights(
    experiment: Experiment, model: SDPose, start: Start, say: Say
) -> dict[str, Tensor]:
    """From the checkpoint, else `load_from`, else `pretrained` (the backbone), else random."""
    if start.checkpoint is not None:
        model.load_state_dict(training_weights(start.checkpoint))
    elif experiment.load_from:
        load_weights(model, experiment.load_from, say=lambda text: say(f"load_from: {text}"))
    elif experiment.model.pretrained:
        pretrained = experiment.model.pretrained
        load_backbone_weights(model, pretrained, say=lambda text: say(f"pretrained: {text}"))
    return model.state_dict()


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


def position(run: Run) -> str:
    progress = run.progress
    if not progress.iteration_in_epoch:
        return f"the end of epoch {progress.epoch}" if progress.epoch else "the beginning"
    return f"epoch {progress.epoch + 1}, iteration {progress.iteration_in_epoch}/{len(run.loader)}"


def resume_command(run: Run) -> str:
    """Works whatever the first command was: the work dir holds the whole resolved experiment."""
    launcher = "sdpose"
    if run.world.size > 1:
        launcher = f"sdpose launch --nproc-per-node {run.world.size}"
    return f"{launcher} train {work_dir_of(run.experiment)}/{EXPERIMENT_FILE} --resume-from auto"


def best_checkpoint(folder: Path, progress: Progress) -> Path | None:
    if not progress.best_epoch:
        return None
    return folder / f"best_AP_epoch_{progress.best_epoch}.pth"
