"""docs/cluster.md names every key of the cluster profile, with its default."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel

from components.profile import Cluster

ROW = re.compile(r"^\| `([\w.*\[\]]+)` \| (required|`(.*?)`) \|", re.M)


def test_every_key_of_the_profile_is_in_the_guide(repository: Path) -> None:
    guide = (repository / "docs/cluster.md").read_text(encoding="utf-8")
    profile = guide.partition("## The profile\n")[2].partition("\n## ")[0]
    rows = ROW.findall(profile)
    told = {
        key: "required" if default == "required" else yaml.safe_load(value)
        for key, default, value in rows
    }
    assert len(told) == len(rows), "a key is told twice"
    assert told == dict(keys(Cluster))


def keys(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key below a section, by its dotted name, with its default."""
    for name, field in section.model_fields.items():
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        if not isinstance(default, BaseModel):
            yield prefix + name, "required" if field.is_required() else default
        each_of = {tuple: "[]", dict: ".*"}.get(get_origin(field.annotation), "")
        for type_ in (field.annotation, *get_args(field.annotation)):
            if isinstance(type_, type) and issubclass(type_, BaseModel):
                yield from keys(type_, f"{prefix}{name}{each_of}.")
