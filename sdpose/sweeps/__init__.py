"""Many trials of one experiment: definition, early stopping, outcome, ranking."""

from sdpose.config.schema import Sweep
from sdpose.sweeps.definition import Trial, expand, load_sweep

__all__ = ["Sweep", "Trial", "expand", "load_sweep"]
