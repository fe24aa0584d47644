"""The model registry: immutable, numbered versions, and channels that point at them behind gates.

The store (`sdpose.storage`) holds the truth; MLflow shows a copy of it. Importing this package
needs neither torch nor MLflow; `register`, `gates` and `mlflow_mirror` import them when called.
"""

from sdpose.registry.layout import CHANNELS, DEFAULT_ROOT, ROOT_VARIABLE, registry_root
from sdpose.registry.pull import pull, resolve
from sdpose.registry.versions import ModelVersion, model_names, read_version, summarize, versions

__all__ = [
    "CHANNELS",
    "DEFAULT_ROOT",
    "ROOT_VARIABLE",
    "ModelVersion",
    "model_names",
    "pull",
    "read_version",
    "registry_root",
    "resolve",
    "summarize",
    "versions",
]
