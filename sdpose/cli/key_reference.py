"""Every key of an experiment, as a table: from the schema, so that no page can lag behind."""

from __future__ import annotations

from sdpose.config.keys import Key, as_yaml, keys
from sdpose.config.short_keys import SHORT_KEYS

MAX_DEFAULT = 80  # characters of the defaults' column; COCO's keypoints take more


def table() -> str:
    """Markdown: a heading and a table for the top level and for each section."""
    by_section: dict[str, list[Key]] = {"top level": []}
    every = list(keys())
    sections = {key.path.partition(".")[0] for key in every if "." in key.path}
    for key in every:
        head = key.path.partition(".")[0]
        by_section.setdefault(head if head in sections else "top level", []).append(key)
    lines: list[str] = []
    for name, found in by_section.items():
        lines += [
            "",
            f"### {name}",
            "",
            "| key | meaning | default | example |",
            "|---|---|---|---|",
        ]
        lines += map(_row, found)
    return "\n".join(lines).strip() + "\n"


def _row(key: Key) -> str:
    choices = [as_yaml(choice) for choice in key.choices if choice is not None]
    is_told = not choices or set(key.choices) == {True, False}
    allowed = "" if is_told else f" ({', '.join(f'`{choice}`' for choice in choices)})"
    default = as_yaml(key.default)
    if len(default) > MAX_DEFAULT:
        default = default[: default.rindex(",", 0, MAX_DEFAULT)] + ", ..."
    default = "required" if key.default is ... else f"`{default}`"
    meaning = key.meaning.replace("|", "\\|").replace("<", "&lt;")
    short = next((f" (`{name}`)" for name, full in SHORT_KEYS.items() if key.path in full), "")
    return f"| `{key.path}`{short} | {meaning}{allowed} | {default} | `{as_yaml(key.example)}` |"
