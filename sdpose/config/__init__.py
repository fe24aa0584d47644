"""Experiments: what they may say, and how they are read."""

from sdpose.config.load import (
    dump_experiment,
    experiment_differences,
    experiment_digest,
    experiments_dir,
    load_experiment,
    load_with_origins,
    parse_experiment,
    summary_values,
)
from sdpose.config.mappings import flatten
from sdpose.config.schema import Experiment

__all__ = [
    "Experiment",
    "dump_experiment",
    "experiment_differences",
    "experiment_digest",
    "experiments_dir",
    "flatten",
    "load_experiment",
    "load_with_origins",
    "parse_experiment",
    "summary_values",
]
