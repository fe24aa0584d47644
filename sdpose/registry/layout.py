"""The keys of a registry's objects. The schemas of its documents: `documents.py`.

    blobs/sha256/<hex>                                  weights (safetensors), by content
    models/<name>/versions/<n>.json                     manifest of version n = 1, 2, ...; immutable
    models/<name>/signatures/<n>.json                   signature of version n's manifest, if any
    models/<name>/index.json                            a cache of what `list` shows; may be deleted
    models/<name>/withdrawn.json                        withdrawn versions, and why
    models/<name>/channels/<channel>/pointer.json       the version that the channel has now
    models/<name>/channels/<channel>/history/<g>.json   every move of the pointer, g = 1, 2, ...
    models/<name>/channels/<channel>/refused/<when>.json  every promotion that a gate refused
    gc/marks/<hex>.json                                 blobs that no manifest named at a gc
    gc/trash/<hex>/<when>-<id>                          weights that a gc moved away
    gc/seen.json                                        number of versions at the last gc

A version is defined by its manifest, a channel by its pointer. The rest is derived from them, or is
a record.
"""

from __future__ import annotations

import os
import re
from datetime import datetime

from sdpose.errors import UserError

ROOT_VARIABLE = "SDPOSE_REGISTRY"
DEFAULT_ROOT = "work_dirs/registry"
POINTER = "pointer.json"
SEEN = "gc/seen.json"
TRASH = "gc/trash"
TRASH_TIME = "%Y%m%dT%H%M%S.%fZ"
CHANNELS = ("candidate", "staging", "production")
MAX_VERSION = 999_999_999
NUMBER = re.compile(r"[1-9][0-9]{0,8}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}")


def registry_root() -> str:
    """$SDPOSE_REGISTRY, else `work_dirs/registry` below the current folder."""
    return os.environ.get(ROOT_VARIABLE) or DEFAULT_ROOT


def check_model_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise UserError(
            f"'{name}' cannot name a model: up to 128 letters, digits, '_', '.' or '-', a letter "
            "or digit first"
        )
    return name


def number_of(text: str) -> int | None:
    """The version number that a text stands for; None if it is none.

    >>> number_of("12"), number_of("012"), number_of("²"), number_of("9" * 5000)
    (12, None, None, None)
    """
    return int(text) if NUMBER.fullmatch(text) else None


def check_channel(channel: str) -> str:
    if channel not in CHANNELS:
        raise UserError(f"there is no channel '{channel}': allowed: {', '.join(CHANNELS)}")
    return channel


def blob_key(sha256: str) -> str:
    return f"blobs/sha256/{sha256}"


def versions_folder(model_name: str) -> str:
    return f"models/{model_name}/versions"


def manifest_key(model_name: str, version: int) -> str:
    return f"{versions_folder(model_name)}/{version}.json"


def signature_key(model_name: str, version: int) -> str:
    return f"models/{model_name}/signatures/{version}.json"


def index_key(model_name: str) -> str:
    return f"models/{model_name}/index.json"


def channel_folder(model_name: str, channel: str) -> str:
    return f"models/{model_name}/channels/{channel}"


def pointer_key(model_name: str, channel: str) -> str:
    return f"{channel_folder(model_name, channel)}/{POINTER}"


def history_key(model_name: str, channel: str, generation: int) -> str:
    # Padded, so that the store's order is the order of generations.
    return f"{channel_folder(model_name, channel)}/history/{generation:08d}.json"


def mark_key(sha256: str) -> str:
    return f"gc/marks/{sha256}.json"


def trash_key(sha256: str, when: datetime, id_: str) -> str:
    """The key of weights in the trash. Each move has a key of its own, so that the deletion of an
    old one cannot remove a new one."""
    return f"{TRASH}/{sha256}/{when.strftime(TRASH_TIME)}-{id_}"


def withdrawals_key(model_name: str) -> str:
    return f"models/{model_name}/withdrawn.json"
