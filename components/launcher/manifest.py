"""Manifests as people read them: the experiment in a block of its own, no anchors."""

from __future__ import annotations

from typing import Any

import yaml

from components.launcher.pod import Object


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(manifest: Object) -> str:
    """For `kubectl apply --server-side -f -`."""
    return yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
