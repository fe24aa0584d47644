"""Where things lie in a registry, and what its documents look like.

    blobs/sha256/<hex>                                  weights (safetensors), by content
    models/<name>/versions/<n>.json                     manifest of version n = 1, 2, ...; immutable
    models/<name>/signatures/<n>.json                   of version n's manifest, if it was signed
    models/<name>/index.json                            a cache of what `list` shows; may be deleted
    models/<name>/channels/<channel>/pointer.json       the version that the channel has now
    models/<name>/channels/<channel>/history/<g>.json   every move of the pointer, g = 1, 2, ...
    models/<name>/channels/<channel>/refused/<when>.json  every promotion that a gate refused
    gc/marks/<hex>.json                                 blobs that no manifest named at a gc

The truth of a version is its manifest, the truth of a channel its pointer; everything else can be
derived or only remembered. Documents are JSON with sorted keys; manifests and records are sealed:
they hold the SHA-256 of the rest of themselves, so that no byte of them can rot unseen.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from datetime import datetime
from typing import Any

from sdpose.errors import UserError
from sdpose.storage import DamagedObjectError

ROOT_VARIABLE = "SDPOSE_REGISTRY"
DEFAULT_ROOT = "work_dirs/registry"
POINTER = "pointer.json"
SEAL = "sealed_sha256"
MANIFEST_FORMAT = "sdpose-model-version/2"
CHANNELS = ("candidate", "staging", "production")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}")


def registry_root() -> str:
    """$SDPOSE_REGISTRY, else `work_dirs/registry` below the current folder."""
    return os.environ.get(ROOT_VARIABLE) or DEFAULT_ROOT


def check_model_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise UserError(
            f"'{name}' cannot name a model: up to 128 letters, digits, '_', '.' or '-', a letter "
            "or digit first (an experiment's exp_name)"
        )
    return name


def check_channel(channel: str) -> str:
    if channel not in CHANNELS:
        raise UserError(f"there is no channel '{channel}': allowed: {', '.join(CHANNELS)}")
    return channel


def document(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """The content with its own digest."""
    return content | {SEAL: digest_of(content)}


def read_sealed(data: bytes, uri: str) -> dict[str, Any]:
    """The content of a sealed document. DamagedObjectError if it is not what was written."""
    try:
        content = dict(json.loads(data))
        if content[SEAL] == digest_of({key: content[key] for key in content if key != SEAL}):
            return content
    except (ValueError, KeyError, TypeError):
        pass
    raise DamagedObjectError(f"{uri} is damaged: it is not the document that was written there")


def digest_of(content: Any) -> str:
    """SHA-256 of the content's compact JSON with sorted keys, in hex."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


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


def mark_of(when: datetime) -> dict[str, Any]:
    return {"marked_at": when.isoformat()}


def mark_key(sha256: str) -> str:
    return f"gc/marks/{sha256}.json"
