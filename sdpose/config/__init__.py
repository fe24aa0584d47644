"""Experiments: what they may say, and how they are read."""

from sdpose.config.document import flatten
from sdpose.config.load import (
    dump_experiment,
    experiment_differences,
    experiment_digest,
    experiments_dir,
    load_experiment,
    parse_experiment,
)
from sdpose.config.schema import Experiment

__all__ = [
    "Experiment",
    "dump_experiment",
    "experiment_differences",
    "experiment_digest",
    "experiments_dir",
    "flatten",
    "load_experiment",
    "parse_experiment",
]
