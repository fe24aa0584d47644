"""The versioned model registry: immutable, checksummed checkpoints, numbered in each model."""

from sdpose.registry.versions import (
    DEFAULT_ROOT,
    ROOT_VARIABLE,
    ModelVersion,
    list_versions,
    read_version,
    register_checkpoint,
    registry_root,
    verify_version,
)

__all__ = [
    "DEFAULT_ROOT",
    "ROOT_VARIABLE",
    "ModelVersion",
    "list_versions",
    "read_version",
    "register_checkpoint",
    "registry_root",
    "verify_version",
]
