"""Expand `~/x`, `$DATA/x` and `file:///x` in the paths of an experiment or an option.

No shell expands them there, and a folder of that literal name is hardly ever meant.
"""

from __future__ import annotations

import os
import re
from typing import Any
from urllib.parse import unquote

from sdpose.errors import UserError

# True: the key also takes addresses (scheme://...), which are not expanded.
_KEYS = {
    "data_root": False,
    "work_dir": True,
    "load_from": True,
    "resume_from": True,
    "model.pretrained": True,
    "data.pack_dir": True,
    "data.train.ann_file": False,
    "data.train.img_prefix": False,
    "data.val.ann_file": False,
    "data.val.img_prefix": False,
    "data_cfg.bbox_file": False,
    "checkpoint_config.out_dir": True,
    "checkpoint_config.mirror": True,
}


def expand_paths(values: dict[str, Any]) -> dict[str, Any]:
    """Apply `local_path` to every path in the values of an experiment, before their validation."""
    for key, takes_addresses in _KEYS.items():
        node: Any = values
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, str) and not (takes_addresses and "://" in node):
            path = local_path(node, key)
            if path != node:
                values = _with(values, key.split("."), path)
    return values


def local_path(text: str, key: str) -> str:
    """Resolve `~`, variables and file:// in a path.

    >>> local_path("file:///data/my%20photos", "data_root")
    '/data/my photos'

    Raises:
        UserError: no such variable or home folder, or a Windows path; the message names `key`.
    """
    drive = re.match(r"([A-Za-z]):[\\/]", text)
    if drive or text.startswith("\\\\"):
        there = f"/mnt/{drive[1].lower()}/{text[3:]}" if drive else "/mnt/..."
        there = there.replace("\\", "/")
        raise UserError(
            f"{key}: {text} is a path of Windows; sdpose runs in Linux, or in WSL: give {there}"
        )
    if text.startswith("file://"):
        host, slash, path = text.removeprefix("file://").partition("/")
        if host not in ("", "localhost") or not slash:
            raise UserError(f"{key}: {text}: give the whole path after three slashes: file:///data")
        return "/" + unquote(path)
    if os.path.lexists(text):
        return text
    expanded = os.path.expanduser(os.path.expandvars(text))
    unset = re.match(r"\$(\w+)|.*\$\{(\w+)\}", expanded, re.DOTALL)
    if unset:
        name = unset[1] or unset[2]
        raise UserError(
            f"{key}: {text}: the variable ${name} is not set: export it, or give a path"
        )
    if expanded.startswith("~"):
        raise UserError(f"{key}: {text}: there is no home folder of that user: give the whole path")
    return expanded


def _with(values: dict[str, Any], keys: list[str], value: str) -> dict[str, Any]:
    first, *rest = keys
    return values | {first: _with(values[first], rest, value) if rest else value}
