"""The state of a run, and its construction from an experiment and a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sdpose.config import Experiment
from sdpose.data.loader import TrainLoader, build_train_loader
from sdpose.data.pack import Pack
from sdpose.losses import build_loss
from sdpose.models import SDPose, build_model
from sdpose.models.transfer import transfer_weights
from sdpose.models.weights import apply_backbone_weights, read_checkpoint
from sdpose.training.checkpoint import Checkpoint, training_weights
from sdpose.training.distributed import World, on_main
from sdpose.training.divergence import LossWatch
from sdpose.training.ema import AveragedModel
from sdpose.training.events import Events
from sdpose.training.meters import Progress, Stopwatch
from sdpose.training.optim import (
    Schedule,
    build_optimizer,
    build_schedule,
    load_optimizer_state,
)
from sdpose.training.options import StepOptions, step_options
from sdpose.training.outputs import NoOutputs, Outputs
from sdpose.training.parallel_model import distribute
from sdpose.training.paths import RunPaths, run_paths
from sdpose.training.result import best_checkpoint
from sdpose.training.stop import Stop


@dataclass(frozen=True)
class SkipImages:
    """File names, as in the annotation files, of unreadable images, which data.on_corrupt `skip`
    leaves out."""

    train: frozenset[str] = frozenset()
    val: frozenset[str] = frozenset()


def _never(epoch: int, ap: float) -> str:
    return ""


@dataclass
class Run:
    """The mutable state of a run on one rank."""

    experiment: Experiment
    world: World
    stop: Stop
    events: Events
    paths: RunPaths
    dataset_digest: str
    skip_images: SkipImages
    loader: TrainLoader
    model: nn.Module
    parallel_model: nn.Module  # the same model, as the step calls it (see `distribute`)
    loss: nn.Module
    options: StepOptions
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None  # fp16 only
    average: AveragedModel | None  # with `ema`
    schedule: Schedule
    progress: Progress
    watch: LossWatch
    outputs: Outputs = field(default_factory=NoOutputs)
    early_stop: Callable[[int, float], str] = _never
    """Given the epoch and its AP: why the run ends with it, or ""; asked on rank 0."""
    mlflow_run_id: str | None = None  # kept in checkpoints
    stopwatch: Stopwatch = field(default_factory=Stopwatch)
    evaluation_seconds: float = 0.0
    is_evaluating: bool = False

    @property
    def evaluated_model(self) -> nn.Module:
        """The model whose weights checkpoints hold as `state_dict`: with `ema` the average."""
        return self.model if self.average is None else self.average.model

    @property
    def total_iterations(self) -> int:
        return len(self.loader) * self.experiment.total_epochs


def build_run(
    experiment: Experiment,
    world: World,
    *,
    stop: Stop,
    events: Events,
    checkpoint: Checkpoint | None,
    dataset_digest: str,
    skip_images: SkipImages,
    pack: Pack | None,
) -> Run:
    """Build a run, except its outputs, in the state of the checkpoint.

    Args:
        experiment: the resolved experiment.
        world: this rank, the number of ranks, and the device.
        stop: may stop the run.
        events: receives the log.
        checkpoint: to resume; None: start from the first step.
        dataset_digest: from `prepare_coco`; kept in checkpoints.
        skip_images: see `SkipImages`.
        pack: of the training images, with data.pipeline `fast`.
    """
    torch.manual_seed(experiment.seed)
    torch.backends.cudnn.benchmark = True  # all batches have the same shape
    model = build_model(experiment.model, experiment.keypoints.num_keypoints)
    # Rank 0 reads the files and broadcasts: the other ranks need no access to them.
    model.load_state_dict(
        on_main(world, lambda: _initial_weights(experiment, model, checkpoint, events))
    )
    model.to(world.device)
    options = step_options(experiment, world.device)
    options.prepare(model)
    optimizer = build_optimizer(model.parameters(), experiment.optimizer, fused=options.fused)
    scaler, watch = options.scaler(), LossWatch(world, experiment.loss_spike)
    ema = experiment.ema
    average = AveragedModel(model, decay=ema.decay, warm_up=ema.warm_up) if ema else None
    progress = Progress()
    if checkpoint is not None:
        progress = Progress.of(checkpoint["meta"])
        restore(checkpoint, optimizer, scaler, average, watch)
    loader = build_train_loader(
        experiment,
        rank=world.rank,
        world_size=world.size,
        skip_images=skip_images.train,
        pack=pack,
    )
    note = progress.continue_with(loader.global_batch, len(loader))
    if note:
        events.say(note)
    paths = run_paths(experiment)
    best = best_checkpoint(experiment, progress)
    is_this = progress.best_epoch == progress.epoch and not progress.iteration_in_epoch
    if best is not None and not best.exists() and not is_this:  # continued from another folder
        progress.best_epoch, progress.best_metrics = 0, {}
    return Run(
        experiment=experiment,
        world=world,
        stop=stop,
        events=events,
        paths=paths,
        dataset_digest=dataset_digest,
        skip_images=skip_images,
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
    )


def restore(
    checkpoint: Checkpoint,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
    average: AveragedModel | None,
    watch: LossWatch,
) -> None:
    """Restore the state that belongs to the weights from a checkpoint, in place."""
    load_optimizer_state(optimizer, checkpoint["optimizer"])
    if scaler is not None and "scaler" in checkpoint:
        scaler.load_state_dict(checkpoint["scaler"])
    if average is not None:  # saved without `ema`, the average starts from the weights
        average.model.load_state_dict(checkpoint["state_dict"])
    if "usual_loss" in checkpoint:
        watch.state.copy_(checkpoint["usual_loss"])


def _initial_weights(
    experiment: Experiment, model: SDPose, checkpoint: Checkpoint | None, events: Events
) -> dict[str, Tensor]:
    """From the checkpoint, else `load_from`, else `pretrained` (backbone only), else random."""
    if checkpoint is not None:
        model.load_state_dict(training_weights(checkpoint))
    elif experiment.load_from:
        path = experiment.load_from
        report = transfer_weights(model, path, experiment.keypoints)
        events.say(f"load_from: {path}: {report.summary()}")
    elif experiment.model.pretrained:
        path = experiment.model.pretrained
        report = apply_backbone_weights(model, path, read_checkpoint(path)[0])
        events.say(f"pretrained: {path}: {report.summary()}")
    return model.state_dict()


def position(run: Run) -> str:
    progress = run.progress
    if not progress.iteration_in_epoch:
        return f"the end of epoch {progress.epoch}" if progress.epoch else "the beginning"
    return f"epoch {progress.epoch + 1}, iteration {progress.iteration_in_epoch}/{len(run.loader)}"
