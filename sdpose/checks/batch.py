"""Checks that the batch fits the GPU: real steps and an evaluation, with the run's options."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable

import torch

from sdpose.checks.report import Report
from sdpose.config import Experiment
from sdpose.data.samples import Batch
from sdpose.errors import UserError
from sdpose.evaluation.infer import predict_heatmaps
from sdpose.losses import build_loss
from sdpose.models import build_model
from sdpose.training.checkpoint import Checkpoint
from sdpose.training.ema import AveragedModel
from sdpose.training.optim import build_optimizer
from sdpose.training.options import step_options
from sdpose.training.step import train_step

STEPS = 3  # the first one compiles, and makes the optimizer's moments


class Trial:
    """The part of a training that takes memory on a device."""

    def __init__(self, experiment: Experiment, device: torch.device) -> None:
        torch.backends.cudnn.benchmark = True  # as training has it; it takes memory, too
        self._experiment, self._device = experiment, device
        self.model = build_model(experiment.model, experiment.keypoints.num_keypoints).to(device)
        self._options = step_options(experiment, device)
        self._options.prepare(self.model)
        self._optimizer = build_optimizer(
            self.model.parameters(), experiment.optimizer, fused=self._options.fused
        )
        self._loss = build_loss(experiment.model.keypoint_head)
        self._scaler = self._options.scaler()
        ema = experiment.ema
        self._average = (
            AveragedModel(self.model, decay=ema.decay, warm_up=ema.warm_up) if ema else None
        )

    def train(self, samples: int) -> float:
        """Three steps with batches of noise; seconds of the last one."""
        settings = self._experiment.optimizer_config
        batches = [self._noise(samples) for _ in range(settings.cumulative_iters)]
        seconds = 0.0
        for step in range(STEPS):
            started = time.perf_counter()
            self.step(batches, step, lr=0.0)
            seconds = time.perf_counter() - started
        return seconds

    def step(self, batches: Iterable[Batch], number: int, lr: float) -> dict[str, float]:
        """One step of training, the `number`-th from 0; its values."""
        clip = self._experiment.optimizer_config.grad_clip
        self.model.train()
        values = train_step(
            self.model,
            self._loss,
            self._optimizer,
            list(self._options.on_device(batches)),
            lr=lr,
            max_norm=clip.max_norm if clip else None,
            norm_type=clip.norm_type if clip else 2.0,
            autocast=self._options.autocast(),
            scaler=self._scaler,
        )
        if self._average is not None:
            self._average.update(number)
        return {name: value.item() for name, value in values.items()}  # waits for the device

    def evaluate(self) -> None:
        """One batch of the validation set's size."""
        width, height = self._experiment.data_cfg.image_size
        count = self._experiment.data.val_dataloader.samples_per_gpu
        crops_NHW3 = torch.zeros(count, height, width, 3, dtype=torch.uint8, device=self._device)
        model = (self._average.model if self._average else self.model).eval()
        with torch.inference_mode():
            predict_heatmaps(
                model,
                crops_NHW3,
                self._experiment.model.test_cfg,
                self._experiment.keypoints.flip_index,
            )

    def checkpoint(self) -> Checkpoint:
        """As large as the run's own will be."""
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self._optimizer.step()  # makes its moments, and moves nothing
        content: Checkpoint = {"state_dict": self.model.state_dict()}
        if self._average is not None:
            content["training_state_dict"] = self._average.model.state_dict()
        return content | {"optimizer": self._optimizer.state_dict()}

    def _noise(self, samples: int) -> Batch:
        (width, height), (columns, rows) = (
            self._experiment.data_cfg.image_size,
            self._experiment.data_cfg.heatmap_size,
        )
        joints = self._experiment.keypoints.num_keypoints
        batch = {
            "images_N3HW": torch.randn(samples, 3, height, width),
            "targets_NKHW": torch.rand(samples, joints, rows, columns),
            "target_weights_NK": torch.ones(samples, joints),
            "sample_keys_N": torch.arange(samples),
            "sample_ids_N": torch.arange(samples),
        }
        if self._device.type == "cuda":
            return {name: tensor.pin_memory() for name, tensor in batch.items()}
        return batch


def check_batch(experiment: Experiment, report: Report) -> None:
    """Reports whether the batch fits the GPU, or how large one that fits is."""
    if torch.cuda.is_available():
        _try_on_gpu(experiment, report)
    else:
        report.unknown.append(
            f"batch: data.samples_per_gpu {experiment.data.samples_per_gpu} was not tried: no GPU"
        )


def _try_on_gpu(experiment: Experiment, report: Report) -> None:
    device = torch.device("cuda", 0)
    name, wanted = torch.cuda.get_device_name(device), experiment.data.samples_per_gpu
    free, total = (value / 2**30 for value in torch.cuda.mem_get_info(device))
    card = f"of {total:.1f} GiB of {name}"
    busy = f" ({total - free:.1f} GiB of it were in use before)" if total - free > 1.5 else ""
    seconds: dict[int, float] = {}

    def peak_gib(samples: int) -> float:
        torch.cuda.reset_peak_memory_stats(device)
        trial = Trial(experiment, device)
        seconds[samples] = trial.train(samples)
        trial.evaluate()
        return torch.cuda.max_memory_reserved(device) / 2**30

    try:
        fits, peak = largest_that_fits(wanted, peak_gib)
    except UserError as error:
        report.error("batch", error)
    except Exception as error:  # of a compiler, a driver, a kernel: whatever training would meet
        report.problem(
            f"batch: a training step fails on {name}: {_first_line(error)}",
            "if it is torch.compile that fails (it needs a C compiler): --set compile=off",
        )
    else:
        if fits == wanted:
            report.fine.append(
                f"batch: {wanted} samples fit: {peak:.1f} {card}{busy}, "
                f"{1000 * seconds[wanted]:.0f} ms a step"
            )
            return
        if fits == 0:
            remedy = "end what else uses it, or take another GPU or a smaller model"
        else:
            times = experiment.optimizer_config.cumulative_iters * -(-wanted // fits)
            remedy = (
                f"{fits} fit ({peak:.1f} GiB): --set data.samples_per_gpu={fits} --set "
                f"optimizer_config.cumulative_iters={times} makes steps of as many samples"
            )
        report.problem(f"batch: {wanted} samples do not fit: more than {free:.1f} {card}", remedy)


def largest_that_fits(wanted: int, peak_gib: Callable[[int], float]) -> tuple[int, float]:
    """`wanted`, or the first of its halves whose trial does not run out of memory, and its peak;
    (0, 0.0) if none does."""
    samples = wanted
    while samples:
        try:
            return samples, peak_gib(samples)
        except torch.OutOfMemoryError:
            samples //= 2
        # Not in the handler: the traceback would keep the trial's tensors.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return 0, 0.0


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
