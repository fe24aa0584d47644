"""Training: the step, the loop around it, and what makes a run survive."""

from sdpose.training.loop import train
from sdpose.training.result import TrainResult
from sdpose.training.step import train_step
from sdpose.training.testing import test_checkpoint

__all__ = ["TrainResult", "test_checkpoint", "train", "train_step"]
