"""Resolve short and misspelled names to the keys of an experiment."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel

from sdpose.config.keys import keys
from sdpose.config.mappings import flatten, is_off, merge, nested, same_branch
from sdpose.config.schema import Experiment
from sdpose.config.short_keys import OTHER_NAMES, SHORT_KEYS
from sdpose.errors import UserError, either

_SHOWN = 6
_FEW = 12  # a message lists up to this many allowed names
_LONGEST = 100  # the time of a comparison grows with the square of the length


def full_paths(name: str, values: dict[str, Any]) -> tuple[str, ...]:
    """Resolve a short name to the keys that it sets; a full path is returned unchanged.

    Args:
        values: of the experiment; keys in sections that are off (null) are omitted.
    Raises:
        UserError: all of them are in sections that are off.
    """
    paths = _long(name)
    if len(paths) == 1:
        return paths
    on = tuple(path for path in paths if not is_off(values, path.rpartition(".")[0]))
    if not on:
        sections = " and ".join(path.split(".")[-2] for path in paths)
        raise UserError(
            f"{sections} are both null (off): set one of them to {{type: MaskedTokenDistilLoss}}"
        )
    return on


def _long(name: str) -> tuple[str, ...]:
    """The full paths of a name, or of a path that starts with a short name."""
    head, dot, rest = name.partition(".")
    return tuple(path + dot + rest for path in SHORT_KEYS.get(head, (head,)))


def spell_out(values: dict[str, Any], base: dict[str, Any], source: str) -> dict[str, Any]:
    """Replace the short and dotted keys at the top of a document by nested keys.

    Args:
        base: the document that it will be merged into.
        source: the file, for messages.
    Raises:
        UserError: a key is given in two ways.
    """
    names = [n for n in values if isinstance(n, str) and (n in SHORT_KEYS or "." in n)]
    result = {key: value for key, value in values.items() if key not in names}
    # Sections first: names that set both losses must know whether one is off.
    for name in sorted(names, key=lambda each: len(_long(each))):
        try:
            paths = full_paths(name, merge(base, result))
        except UserError as error:
            raise UserError(f"{source}: {name}: {error}") from None
        for path in paths:
            addition = nested(path, values[name])
            for new in flatten(addition):
                if clash := next((old for old in flatten(result) if same_branch(old, new)), None):
                    raise UserError(
                        f"{source}: {name}: {clash} is given twice: leave one of the two out"
                    )
            result = merge(result, addition)
    return result


def key_paths(section: type[BaseModel]) -> list[str]:
    """Return the dotted paths of all keys and sections of a document."""
    paths: dict[str, None] = {}
    for key in keys(section):
        parts = key.path.split(".")
        paths |= dict.fromkeys(".".join(parts[:end]) for end in range(1, len(parts) + 1))
    return list(paths)


def hint_for(name: str, root: type[BaseModel], siblings: Sequence[str]) -> str:
    """Suggest what an unknown key may mean: keys of that name elsewhere, and similar names.

    `siblings` are the keys that its section has.
    """
    paths = key_paths(root)
    if (dotted := re.sub("[:/]", ".", name)) != name and dotted in paths:
        return f"did you mean '{dotted}'?"
    ends: dict[str, list[str]] = {}
    for path in paths:
        ends.setdefault(path.rpartition(".")[2], []).append(path)
    is_experiment = root is Experiment
    same = list(ends.get(name, []))
    if is_experiment and name in OTHER_NAMES:
        same.append(OTHER_NAMES[name])
    beside = [*siblings, *(SHORT_KEYS if is_experiment and "exp_name" in siblings else ())]
    word = name[:_LONGEST]
    near = get_close_matches(word, beside, n=2, cutoff=0.6)
    if not same and not near:
        close = get_close_matches(word, list(ends), n=2, cutoff=0.75)
        near = [path for end in close for path in ends[end]]
    if same or near:
        return f"did you mean {either(dict.fromkeys([*same, *near][:_SHOWN]))}?"
    if ":" in name:
        return "write a space behind the colon, as in {type: Adam}, and quotes around it all"
    if len(siblings) <= _FEW or not is_experiment:
        return "allowed: " + ", ".join(sorted(siblings))
    return "`sdpose config keys` lists every key"


def described_short_keys(names: Iterable[str]) -> list[str]:
    """Return one line for each short name, with the keys that it stands for."""
    return [
        f"{name} is short for {' and '.join(_long(name))}"
        for name in names
        if name.partition(".")[0] in SHORT_KEYS
    ]
