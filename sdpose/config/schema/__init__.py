"""The schema of an experiment: every key with its meaning, unit, range and default.

The keys are those that mmpose users know. Unknown keys are errors at every level, and every key is
used by the code (tests/test_every_key_is_read.py).
"""

from sdpose.config.schema.data import (
    Data,
    DataCfg,
    TrainPipeline,
    TrainSplit,
    ValDataloader,
    ValSplit,
)
from sdpose.config.schema.experiment import Experiment
from sdpose.config.schema.model import (
    Backbone,
    KeypointHead,
    KeypointLoss,
    Model,
    TestCfg,
    TokenDistilLoss,
    TokenPose,
)
from sdpose.config.schema.outputs import CheckpointConfig, Evaluation, LogConfig, LogHook
from sdpose.config.schema.promotion import Promotion, Registry
from sdpose.config.schema.section import Section
from sdpose.config.schema.skeleton import COCO, PRESET_NAMES, Skeleton, preset
from sdpose.config.schema.sweep import EarlyStopping, Sweep
from sdpose.config.schema.training import Ema, GradClip, LrConfig, Optimizer, OptimizerConfig

__all__ = [
    "COCO",
    "PRESET_NAMES",
    "Backbone",
    "CheckpointConfig",
    "Data",
    "DataCfg",
    "EarlyStopping",
    "Ema",
    "Evaluation",
    "Experiment",
    "GradClip",
    "KeypointHead",
    "KeypointLoss",
    "LogConfig",
    "LogHook",
    "LrConfig",
    "Model",
    "Optimizer",
    "OptimizerConfig",
    "Promotion",
    "Registry",
    "Section",
    "Skeleton",
    "Sweep",
    "TestCfg",
    "TokenDistilLoss",
    "TokenPose",
    "TrainPipeline",
    "TrainSplit",
    "ValDataloader",
    "ValSplit",
    "preset",
]
