"""Reads configuration files of mmcv 0.x/1.x (Python with `_base_`) without running them.

The file is parsed, and its assignments are evaluated by `interpreter`. Inheritance is mmcv's:
dictionaries merge, `_delete_=True` replaces, any other value replaces, `{{_base_.key}}` and
`{{ fileBasename }}` are filled in.
"""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from typing import Any

from sdpose.documents import DocumentError, describe, read_text
from sdpose.errors import UserError
from sdpose.tools.mmpose_import.bounds import Bounds, TooLargeError
from sdpose.tools.mmpose_import.interpreter import BASE, Interpreter

DELETE = "_delete_"
MAX_FILE_BYTES = 2**20
MAX_FILES = 100  # a configuration and its bases
_LONGEST_NAME = 1000


def read_python_config(path: Path) -> dict[str, Any]:
    """All top-level names of a configuration file and its bases, merged.

    Raises UserError with file and line for a missing base, a syntax error, or a statement that is
    more than a setting.
    """
    return _Files().read(path, ())


class _Files:
    """A configuration and its bases, each read once: forty files that name the next one twice
    would be read 2^40 times."""

    def __init__(self) -> None:
        self._read: dict[str, dict[str, Any]] = {}

    def read(self, path: Path, readers: tuple[Path, ...]) -> dict[str, Any]:
        """readers: the files by whose `_base_` this one is read."""
        by = f" (a base of {readers[-1]})" if readers else ""
        key = os.path.abspath(path)
        if key in self._read:
            return self._read[key]
        if len(self._read) + len(readers) >= MAX_FILES:
            raise UserError(f"{path}{by}: more than {MAX_FILES} files, the most that are read")
        try:
            text = read_text(path, MAX_FILE_BYTES)
        except DocumentError as error:
            raise UserError(f"{error}{by}") from None
        if os.path.realpath(path) in map(os.path.realpath, readers):
            raise UserError(f"{path}: is its own base, by way of {', '.join(map(str, readers))}")
        module = _parse(text, path)
        interpreter = Interpreter(path, {})
        base: dict[str, Any] = {}
        for name in _bases(module, path, interpreter):
            inherited = self.read(path.parent / name, (*readers, path))
            twice = sorted(base.keys() & inherited.keys())
            if twice:
                names = ", ".join(twice[:5])
                raise UserError(f"{path}: {names} is set by more than one of its bases")
            base |= inherited
        try:
            merged = _merge(base, Interpreter(path, base).run(module))
            Bounds().check(merged)
        except (TypeError, TooLargeError) as error:
            raise UserError(f"{path}: {error}") from None
        self._read[key] = merged
        return merged


def _parse(text: str, path: Path) -> ast.Module:
    try:
        return ast.parse(_fill_in_file_names(text, path))
    except SyntaxError as error:
        where = f"{path}, line {error.lineno}" if error.lineno else str(path)
        raise UserError(f"{where}: not valid Python: {error.msg}") from None
    except (RecursionError, MemoryError):
        raise UserError(f"{path}: not valid Python: nested too deeply") from None
    except ValueError as error:  # a NUL
        raise UserError(f"{path}: not valid Python: {error}") from None


def _fill_in_file_names(text: str, path: Path) -> str:
    values = {
        "fileDirname": str(path.absolute().parent),
        "fileBasename": path.name,
        "fileBasenameNoExtension": path.stem,
        "fileExtname": path.suffix,
    }
    for name, value in values.items():
        text = re.sub(r"\{\{\s*" + name + r"\s*\}\}", lambda _, value=value: value, text)  # type: ignore[misc]
    return text


def _bases(module: ast.Module, path: Path, interpreter: Interpreter) -> list[str]:
    for statement in module.body:
        if isinstance(statement, ast.ImportFrom) and str(statement.module).startswith("mmengine"):
            raise UserError(
                f"{path}, line {statement.lineno}: it imports from mmengine, as configurations of "
                "mmpose 1.x do: only those of mmpose 0.x are read"
            )
        if isinstance(statement, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == BASE for target in statement.targets
        ):
            value = interpreter.value(statement.value)
            names = [value] if isinstance(value, str) else value
            if not isinstance(names, list | tuple) or not all(
                isinstance(n, str) and len(n) < _LONGEST_NAME for n in names
            ):
                raise UserError(f"{path}, line {statement.lineno}: {BASE} must name files")
            newer = next((name for name in names if "::" in name), None)
            if newer:
                raise UserError(
                    f"{path}, line {statement.lineno}: the base '{newer}' is one of mmpose 1.x: "
                    "only configurations of mmpose 0.x are read"
                )
            return list(names)
    return []


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        if isinstance(value, dict):
            replace = value.get(DELETE, False)
            value = {k: v for k, v in value.items() if k != DELETE}
            if key in base and not replace:
                if not isinstance(base[key], dict):
                    raise TypeError(
                        f"{key} is a dict here and {describe(base[key])} in the base; "
                        f"{DELETE}=True would replace it"
                    )
                value = _merge(base[key], value)
            else:
                value = _merge({}, value)
        merged[key] = value
    return merged
