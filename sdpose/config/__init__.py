"""Experiments: what they may say, and how they are read."""

from sdpose.config.load import (
    dump_experiment,
    experiment_differences,
    experiment_digest,
    experiments_dir,
    load_experiment,
    load_with_origins,
    parse_experiment,
)
from sdpose.config.mappings import flatten
from sdpose.config.schema import Experiment, Sweep
from sdpose.config.sweep import Trial, expand, load_sweep

__all__ = [
    "Experiment",
    "Sweep",
    "Trial",
    "dump_experiment",
    "expand",
    "experiment_differences",
    "experiment_digest",
    "experiments_dir",
    "flatten",
    "load_experiment",
    "load_sweep",
    "load_with_origins",
    "parse_experiment",
]
