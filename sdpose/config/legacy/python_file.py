"""Reads configuration files of mmcv 0.x/1.x (Python with `_base_`) without running them.

The file is parsed and its assignments are evaluated by a small interpreter that knows literals,
names, `dict(...)` and a few harmless functions, f-strings, arithmetic, subscripts and
comprehensions. Whatever else a file does is refused with its line: a configuration from someone
else must not be able to run code here.

Inheritance is mmcv's: dictionaries merge, `_delete_=True` replaces, any other value replaces,
`{{_base_.key}}` and `{{ fileBasename }}` are filled in.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sdpose.errors import UserError

BASE, DELETE = "_base_", "_delete_"
# No configuration needs more; a short text could ask for all time and memory otherwise.
MAX_ELEMENTS = 10_000
MAX_EVALUATIONS = 100_000

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        *(dict, list, tuple, int, float, str, bool),
        *(len, min, max, sum, abs, round, sorted, zip, enumerate),
    )
}
_METHODS: dict[type, set[str]] = {
    str: {"lower", "upper", "strip", "replace", "split", "join", "startswith", "endswith"},
    dict: {"copy", "get", "items", "keys", "values"},
    list: {"copy", "index", "count"},
    tuple: {"index", "count"},
}
_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, container: item in container,
    ast.NotIn: lambda item, container: item not in container,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}


def read_python_config(path: Path) -> dict[str, Any]:
    """All top-level names of a configuration file and its bases, merged.

    Raises UserError with file and line for a missing base, a syntax error, or a statement that is
    more than a setting.
    """
    return _read(path, ())


def _read(path: Path, readers: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in readers:
        raise UserError(f"{path}: is its own base, by way of {', '.join(map(str, readers))}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        by = f" (a base of {readers[-1]})" if readers else ""
        raise UserError(f"{path}{by}: cannot be read: {error}") from None
    try:
        module = ast.parse(_fill_in_file_names(text, path))
    except SyntaxError as error:
        raise UserError(f"{path}, line {error.lineno}: not valid Python: {error.msg}") from None

    base: dict[str, Any] = {}
    for name in _bases(module, path):
        inherited = _read(path.parent / name, (*readers, path.resolve()))
        twice = sorted(base.keys() & inherited.keys())
        if twice:
            raise UserError(f"{path}: {', '.join(twice)} is set by more than one of its bases")
        base |= inherited
    own = _Interpreter(path, base).run(module)
    try:
        return _merge(base, own)
    except TypeError as error:
        raise UserError(f"{path}: {error}") from None


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


def _bases(module: ast.Module, path: Path) -> list[str]:
    for statement in module.body:
        if isinstance(statement, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == BASE for target in statement.targets
        ):
            value = _Interpreter(path, {}).value(statement.value)
            names = [value] if isinstance(value, str) else value
            if not isinstance(names, list | tuple) or not all(isinstance(n, str) for n in names):
                raise UserError(f"{path}, line {statement.lineno}: {BASE} must name files")
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
                        f"{key} is a dict here and {base[key]!r} in the base; "
                        f"{DELETE}=True would replace it"
                    )
                value = _merge(base[key], value)
            else:
                value = _merge({}, value)
        merged[key] = value
    return merged


class _Interpreter:
    """Evaluates one file; names that it has not set are looked up nowhere else."""

    def __init__(self, path: Path, base: dict[str, Any]) -> None:
        self._path = path
        self._base = base
        self._names: dict[str, Any] = {}
        self._evaluations = 0

    def run(self, module: ast.Module) -> dict[str, Any]:
        for statement in module.body:
            self._statement(statement)
        return {
            name: value
            for name, value in self._names.items()
            if not name.startswith("__") and name != BASE
        }

    def _statement(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Expr(value=ast.Constant()) | ast.Pass():
                pass
            case ast.Assign(targets=targets, value=value):
                result = self.value(value)
                for target in targets:
                    self._assign(target, result)
            case ast.AnnAssign(target=target, value=value) if value is not None:
                self._assign(target, self.value(value))
            case ast.AugAssign(target=target, op=op, value=value):
                old = self.value(_as_load(target))
                self._assign(target, self._operate(statement, op, old, self.value(value)))
            case _:
                raise self._refused(statement, "only settings are read")

    def _assign(self, target: ast.expr, value: Any) -> None:
        match target:
            case ast.Name(id=name):
                self._names[name] = value
            case ast.Subscript(value=container, slice=key):
                try:
                    self.value(container)[self.value(key)] = value
                except (LookupError, TypeError) as error:
                    raise self._refused(target, str(error)) from None
            case ast.Tuple(elts=targets) | ast.List(elts=targets):
                values = list(value)
                if len(values) != len(targets):
                    raise self._refused(target, f"{len(values)} values for {len(targets)} names")
                for one, item in zip(targets, values, strict=True):
                    self._assign(one, item)
            case _:
                raise self._refused(target, "only names and items are set")

    def value(self, node: ast.expr) -> Any:
        """The value of an expression; UserError where it is more than a setting."""
        self._evaluations += 1
        if self._evaluations > MAX_EVALUATIONS:
            raise self._refused(node, "the file computes too much")
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name):
                if name not in self._names:
                    raise self._refused(node, f"the name '{name}' is not set before")
                return self._names[name]
            case ast.Set(elts=[ast.Set(elts=[ast.Attribute() as reference])]):
                return self._of_base(reference)
            case ast.List(elts=elements):
                return list(self._elements(elements))
            case ast.Tuple(elts=elements):
                return tuple(self._elements(elements))
            case ast.Dict(keys=keys, values=values):
                result: dict[Any, Any] = {}
                for key, item in zip(keys, values, strict=True):
                    if key is None:  # **other
                        result |= self.value(item)
                    else:
                        result[self.value(key)] = self.value(item)
                return result
            case ast.JoinedStr(values=parts):
                return "".join(self._text_of(part) for part in parts)
            case ast.BinOp(left=left, op=op, right=right):
                return self._operate(node, op, self.value(left), self.value(right))
            case ast.UnaryOp(op=op, operand=operand):
                return self._operate(node, op, self.value(operand))
            case ast.BoolOp(op=ast.And(), values=values):
                return self._first(values, stop_at=False)
            case ast.BoolOp(values=values):
                return self._first(values, stop_at=True)
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                value = self.value(left)
                for comparison, comparator in zip(ops, comparators, strict=True):
                    other = self.value(comparator)
                    if not self._operate(node, comparison, value, other):
                        return False
                    value = other
                return True
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return self.value(body if self.value(test) else orelse)
            case ast.Subscript(value=container, slice=index):
                return self._guarded(node, lambda: self.value(container)[self._key(index)])
            case ast.ListComp(elt=element, generators=[generator]):
                return [self.value(element) for _ in self._loop(generator)]
            case ast.DictComp(key=key, value=item, generators=[generator]):
                return {self.value(key): self.value(item) for _ in self._loop(generator)}
            case ast.Call():
                return self._call(node)
            case _:
                raise self._refused(node, "it is more than a setting")

    def _elements(self, elements: list[ast.expr]) -> Iterator[Any]:
        for element in elements:
            if isinstance(element, ast.Starred):
                yield from self.value(element.value)
            else:
                yield self.value(element)

    def _of_base(self, reference: ast.Attribute) -> Any:
        keys: list[str] = []
        node: ast.expr = reference
        while isinstance(node, ast.Attribute):
            keys.insert(0, node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or node.id != BASE:
            raise self._refused(reference, "only {{_base_.key}} is filled in")
        value: Any = self._base
        for key in keys:
            if not isinstance(value, dict) or key not in value:
                raise self._refused(reference, f"'{'.'.join(keys)}' is in none of the bases")
            value = value[key]
        return value

    def _text_of(self, part: ast.expr) -> str:
        match part:
            case ast.Constant(value=text):
                return str(text)
            case ast.FormattedValue(value=value, conversion=conversion, format_spec=spec):
                result = self.value(value)
                if conversion == ord("r"):
                    result = repr(result)
                form = self.value(spec) if spec else ""
                if re.search(r"\d{4}", form):
                    raise self._refused(part, "the format is too wide")
                return self._guarded(part, lambda: format(result, form))
            case _:
                raise self._refused(part, "it is more than text and values")

    def _first(self, values: list[ast.expr], *, stop_at: bool) -> Any:
        for node in values:
            value = self.value(node)
            if bool(value) is stop_at:
                break
        return value

    def _key(self, key: ast.expr) -> Any:
        if isinstance(key, ast.Slice):
            parts = (key.lower, key.upper, key.step)
            return slice(*(None if part is None else self.value(part) for part in parts))
        return self.value(key)

    def _loop(self, generator: ast.comprehension) -> Iterator[None]:
        before = dict(self._names)
        for item in self.value(generator.iter):
            self._assign(generator.target, item)
            if all(self.value(condition) for condition in generator.ifs):
                yield
        self._names = before

    def _call(self, node: ast.Call) -> Any:
        arguments = list(self._elements(node.args))
        named: dict[str, Any] = {}
        for keyword in node.keywords:
            named |= self.value(keyword.value) if keyword.arg is None else {}
            if keyword.arg is not None:
                named[keyword.arg] = self.value(keyword.value)
        match node.func:
            case ast.Name(id="range"):
                numbers = self._guarded(node, lambda: range(*arguments))
                if len(numbers) > MAX_ELEMENTS:
                    raise self._refused(node, f"more than {MAX_ELEMENTS} elements")
                return numbers
            case ast.Name(id=name) if name in _FUNCTIONS:
                return self._guarded(node, lambda: _FUNCTIONS[name](*arguments, **named))
            case ast.Attribute(value=owner, attr=method):
                value = self.value(owner)
                if method in _METHODS.get(type(value), ()):
                    return self._guarded(node, lambda: getattr(value, method)(*arguments, **named))
        raise self._refused(node, "this function is not called when a configuration is read")

    def _operate(self, node: ast.AST, op: ast.AST, *operands: Any) -> Any:
        if type(op) not in _OPERATORS:
            raise self._refused(node, "this operator is not used in settings")
        if isinstance(op, ast.Pow) and abs(operands[1]) > 100:
            raise self._refused(node, "the exponent is too large")
        if isinstance(op, ast.Mult):
            sequences = [len(o) for o in operands if isinstance(o, str | list | tuple)]
            if (
                sequences
                and max(sequences) * max((o for o in operands if isinstance(o, int)), default=1)
                > MAX_ELEMENTS
            ):
                raise self._refused(node, "the result is too large")
        return self._guarded(node, lambda: _OPERATORS[type(op)](*operands))

    def _guarded(self, node: ast.AST, compute: Callable[[], Any]) -> Any:
        try:
            return compute()
        except (LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise self._refused(node, f"{type(error).__name__}: {error}") from None

    def _refused(self, node: ast.AST, reason: str) -> UserError:
        line = getattr(node, "lineno", "?")
        text = " ".join(ast.unparse(node).split())
        shown = text if len(text) <= 60 else text[:57] + "..."
        return UserError(f"{self._path}, line {line}: `{shown}`: {reason}")


def _as_load(target: ast.expr) -> ast.expr:
    node = ast.parse(ast.unparse(target), mode="eval").body
    return ast.copy_location(node, target)
