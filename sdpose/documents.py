"""YAML and JSON that others wrote, read within bounds.

A short text can ask for all time and memory: aliases of aliases, deep nesting, a number of a
million digits. Everything here either returns plain data of a bounded size or raises
`DocumentError`, whatever the bytes are.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import reprlib
import stat
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from sdpose.errors import UserError

MAX_JSON_BYTES = 16 * 2**20
MAX_YAML_BYTES = 2**20  # an experiment has 5 kB; PyYAML reads 100 kB a second
MAX_NODES = 50_000  # of a YAML document, every alias counted as what it stands for
MAX_DEPTH = 64
MAX_DIGITS = 100  # any such integer fits into a float

_CHARACTERS_PER_NODE = 64  # a long text counts as several nodes: an alias may repeat it
# Larger integers can share one hash value, and a dictionary of those takes quadratic time.
_LONGEST_NUMBER_AS_KEY = 18
_TAG = "tag:yaml.org,2002:"
_UNUSABLE = re.compile("[\0\ud800-\udfff]")  # by escapes; no file name or stream takes them
_NUMBERS = (f"{_TAG}int", f"{_TAG}float")


class DocumentError(UserError):
    """A document cannot be read; the message says which one and why."""


# ------------------------------------------------------------------------------------------ files


def read_text(path: Path, limit: int = MAX_YAML_BYTES) -> str:
    """The text of a regular file of at most `limit` bytes, see `decode`.

    A device or a pipe is refused: it may never end. Raises DocumentError.
    """
    return decode(read_bytes(path, limit), str(path))


def read_bytes(path: Path, limit: int | None) -> bytes:
    """The bytes of a regular file of at most `limit` bytes. Raises DocumentError."""
    try:
        # Without O_NONBLOCK, opening a pipe waits for somebody who writes.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise DocumentError(f"{path}: not a regular file")
            data = file.read() if limit is None else file.read(limit + 1)
    except FileNotFoundError:
        raise DocumentError(f"file not found: {path}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if isinstance(error, DocumentError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise DocumentError(f"{path}: cannot be read: {reason}") from None
    if limit is not None and len(data) > limit:
        raise DocumentError(f"{path}: larger than {_size(limit)}, the most that is read here")
    return data


def decode(data: bytes | str, source: str) -> str:
    """The text of a document: UTF-8, or UTF-16 with a byte-order mark, which is not part of it.

    Raises DocumentError, which names the encoding that the bytes look like.
    """
    if isinstance(data, str):
        return data.removeprefix("\ufeff")
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-16":
            found, command = "its byte-order mark says UTF-16, and it is not", ""
        else:
            legacy = _legacy_encoding(data)
            found = f"byte {error.start + 1} is {data[error.start]:#04x}"
            found += f": it looks like {legacy}" if legacy else ""
            command = f" (iconv -f {legacy} -t utf-8 OLD > NEW)" if legacy else ""
        raise DocumentError(
            f"{source}: not UTF-8 text ({found}): save it as UTF-8{command}"
        ) from None


# What editors and exporters wrote before UTF-8, and the letters that tell it from the others.
_LEGACY = (
    ("cp949", re.compile("[가-힣]")),
    ("cp932", re.compile("[ぁ-ヺ]")),
    ("cp1252", re.compile("[À-ÿ]")),
)


def _legacy_encoding(data: bytes) -> str:
    """The encoding in which most of what is not ASCII is letters of its script; "" for none."""
    for encoding, letters in _LEGACY:
        try:
            start = codecs.getincrementaldecoder(encoding)().decode(data[:MAX_YAML_BYTES])
        except UnicodeDecodeError:
            continue
        text = re.sub(r"[\0-\x7f]+", "", start)
        if 2 * len(letters.findall(text)) > len(text):
            return encoding
    return ""


# ------------------------------------------------------------------------------------------- JSON


def read_json(path: Path, limit: int = MAX_JSON_BYTES, *, finite: bool = False) -> Any:
    """The value of a JSON file, see `parse_json`. Raises DocumentError."""
    return parse_json(read_bytes(path, limit), str(path), limit, finite=finite)


def parse_json(
    data: bytes | str, source: str, limit: int = MAX_JSON_BYTES, *, finite: bool = False
) -> Any:
    """The value of a JSON text that somebody else may have written.

    Args:
        source: where it comes from, for the message.
        limit: bytes (characters, if `data` is text) that are read at most.
        finite: refuse NaN, Infinity and 1e999, which Python's reader accepts.
    Raises:
        DocumentError: no JSON, too large, nested deeper than MAX_DEPTH, or a number of more than
            MAX_DIGITS digits.
    """
    if len(data) > limit:
        raise DocumentError(f"{source}: larger than {_size(limit)}, the most that is read here")
    constants: dict[str, Any] = {}
    if finite:
        constants = {"parse_constant": _not_finite, "parse_float": _finite}
    text = decode(data, source)
    try:
        value = json.loads(text, parse_int=_integer, **constants)
        if "\\u" in text:  # half of a pair of escapes is text that cannot be written again
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise DocumentError(_too_deep(source)) from None
    except ValueError as error:
        raise DocumentError(f"{source}: not valid JSON: {error}") from None
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for container in level
            if isinstance(container, dict | list)
            for child in (container.values() if isinstance(container, dict) else container)
            if isinstance(child, dict | list)
        ]
        if not level:
            return value
    raise DocumentError(_too_deep(source))


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits ({MAX_DIGITS} at most)")
    return int(digits)


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:20]} is out of range")
    return number


def _not_finite(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _too_deep(source: str) -> str:
    return f"{source}: nested deeper than {MAX_DEPTH} levels"


def _size(limit: int) -> str:
    return f"{limit / 2**20:g} MiB"


# ------------------------------------------------------------------------------------------- YAML


def parse_yaml_value(text: bytes | str, source: str) -> Any:
    """The value of a YAML text: mappings, lists, text, numbers, booleans and null.

    `1e-5` is a number, a date is text, merge keys (`<<`) work, and a key given twice is refused.
    Raises DocumentError.
    """
    text = decode(text, source)
    if len(text) > MAX_YAML_BYTES:
        raise DocumentError(
            f"{source}: larger than {_size(MAX_YAML_BYTES)}, the most that is read here"
        )
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).replace('"<unicode string>", ', "").split())
        raise DocumentError(f"{source}: not valid YAML: {reason[:400]}") from None
    except RecursionError:
        raise DocumentError(_too_deep(source)) from None


class _Loader(yaml.SafeLoader):
    """Counts while it composes, so that nothing is built of a document that is too large."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = 0
        self._depth = 0
        self._deepest = 0
        self._of_anchor: dict[str, tuple[int, int]] = {}  # nodes, levels

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in self.anchors and event.anchor not in self._of_anchor:
                raise _refused(f"'*{event.anchor}' is a part of itself", event)
            nodes, levels = self._of_anchor.get(str(event.anchor), (0, 0))
            self._count(event, nodes, levels)
            return super().compose_node(parent, index)
        before, deepest = self._nodes, self._deepest
        long = len(event.value) if isinstance(event, yaml.ScalarEvent) else 0
        self._count(event, 1 + long // _CHARACTERS_PER_NODE, 1)
        self._depth += 1
        self._deepest = self._depth
        node = super().compose_node(parent, index)
        self._depth -= 1
        if event.anchor is not None:
            self._of_anchor[event.anchor] = self._nodes - before, self._deepest - self._depth
        self._deepest = max(deepest, self._deepest)
        return node

    def _count(self, event: yaml.NodeEvent, nodes: int, levels: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise _refused(f"more than {MAX_NODES} values, aliases counted", event)
        if self._depth + levels > MAX_DEPTH:
            raise _refused(f"nested deeper than {MAX_DEPTH} levels", event)
        self._deepest = max(self._deepest, self._depth + levels)

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        if node.tag in _NUMBERS and len(node.value) > MAX_DIGITS:
            what = f"a number of {len(node.value)} characters ({MAX_DIGITS} at most)"
            raise _refused(what, node)
        if _UNUSABLE.search(node.value):
            raise _refused("text with a NUL character or half of a surrogate pair", node)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[Hashable] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refused("a key must be one word or number, not a list or mapping", key)
            if key.tag in _NUMBERS and len(key.value) > _LONGEST_NUMBER_AS_KEY:
                raise _refused(f"the key {key.value:.40} is a number with too many digits", key)
            if (key.tag, key.value) in seen:
                line = key.start_mark.line + 1
                raise _refused(f"key '{key.value:.60}' is given twice (line {line})", key)
            seen.add((key.tag, key.value))
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError):
            kind = node.tag.removeprefix(_TAG)
            raise _refused(f"cannot be read as {kind}: {describe(node.value)}", node) from None


def _refused(what: str, at: Any) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, what, at.start_mark)


# A date would be no text where a name is asked for, and `=` alone could not be read at all.
_IMPLICIT = {f"{_TAG}{kind}" for kind in ("bool", "float", "int", "merge", "null")}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _IMPLICIT]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+0123456789."),
)
_CONSTRUCTED = {f"{_TAG}{kind}" for kind in ("bool", "float", "int", "map", "null", "seq", "str")}
_Loader.yaml_constructors = {
    tag: constructor
    for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag in _CONSTRUCTED
}


# --------------------------------------------------------------------------------------- messages


_SHORT = reprlib.Repr()
_SHORT.maxlevel = 3
_SHORT.maxstring = _SHORT.maxother = 58  # what is cut must be longer than what describe() keeps


def describe(value: Any) -> str:
    """The value for a message, in at most 70 characters, however large it is."""
    if value is None:
        return "nothing (null)"
    text = _SHORT.repr(value)
    return text if len(text) <= 60 else f"{type(value).__name__} {text[:57]}..."
