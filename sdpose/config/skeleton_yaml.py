"""A skeleton as YAML for an experiment, with comments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from sdpose.printable import printable_line

WIDTH = 80  # PyYAML breaks a line after the word that exceeds it
KEYS = ("keypoints", "flip_pairs", "sigmas", "limbs", "upper_body")


def skeleton_yaml(
    skeleton: Mapping[str, Sequence[Any]], comments: Mapping[str, Sequence[str]]
) -> str:
    """Write the key `skeleton` of an experiment.

    Args:
        skeleton: the values of KEYS.
        comments: by key, the lines above it; "" for those at the head.
    """
    lines = [f"# {printable_line(line)}" for line in comments.get("", ())] + ["skeleton:"]
    for key in KEYS:
        lines += [f"  # {printable_line(line)}" for line in comments.get(key, ())]
        values = [list(v) if isinstance(v, tuple) else v for v in skeleton[key]]
        text = yaml.safe_dump(
            {key: values}, default_flow_style=None, allow_unicode=True, width=WIDTH
        )
        lines += [f"  {line}" for line in text.rstrip("\n").split("\n")]
    return "\n".join(lines) + "\n"
