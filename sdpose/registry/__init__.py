"""The model registry: immutable, numbered versions of models; channels that point at them through
gates; and a file for whoever wants to run one.

The store decides (`sdpose.storage`), MLflow shows. Importing this needs neither torch nor MLflow;
`register`, `gates` and `catalogue` import theirs when they are called.
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
