"""Evaluates the settings of one configuration file, and nothing else.

A small interpreter that knows literals, names, `dict(...)` and a few harmless functions, f-strings,
arithmetic, subscripts and comprehensions. Whatever else a file does is refused with its line: a
configuration from someone else must not be able to run code here.
"""

from __future__ import annotations

import ast
import copy
import operator
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sdpose.errors import UserError
from sdpose.tools.mmpose_import.bounds import (
    MAX_ELEMENTS,
    Bounds,
    TooLargeError,
    check_operands,
    check_width,
)

BASE = "_base_"
MAX_EVALUATIONS = 100_000

# What evaluation raises on values that do not fit.
_ERRORS = (LookupError, TypeError, ValueError, ArithmeticError)
_VIEWS: tuple[type[Any], ...] = (
    range,
    zip,
    enumerate,
    type({}.keys()),
    type({}.values()),
    type({}.items()),
)

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


class Interpreter:
    """Evaluates one file; names that it has not set are looked up nowhere else."""

    def __init__(self, path: Path, base: dict[str, Any]) -> None:
        self._path = path
        self._base = base
        self._names: dict[str, Any] = {}
        self._evaluations = 0
        self._bounds = Bounds()

    def run(self, module: ast.Module) -> dict[str, Any]:
        """The top-level names that the file sets. Raises UserError with the line."""
        for statement in module.body:
            self._guarded(statement, lambda statement=statement: self._statement(statement))  # type: ignore[misc]
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
                owner = self.value(container)
                owner[self.value(key)] = value
                self._bounds.check(owner)
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
        return self._guarded(node, lambda: self._value(node))

    def _value(self, node: ast.expr) -> Any:
        self._evaluations += 1
        if self._evaluations > MAX_EVALUATIONS:
            raise self._refused(node, "the file computes too much")
        match node:
            case ast.Constant(value=value):
                return self._bounds.check(value)
            case ast.Name(id=name):
                if name not in self._names:
                    raise self._refused(node, f"the name '{name}' is not set before")
                return self._names[name]
            case ast.Set(elts=[ast.Set(elts=[ast.Attribute() as reference])]):
                return self._of_base(reference)
            case ast.List(elts=elements):
                return self._bounds.check(list(self._elements(elements)))
            case ast.Tuple(elts=elements):
                return self._bounds.check(tuple(self._elements(elements)))
            case ast.Dict(keys=keys, values=values):
                result: dict[Any, Any] = {}
                for key, item in zip(keys, values, strict=True):
                    if key is None:  # **other
                        result |= self.value(item)
                    else:
                        result[self.value(key)] = self.value(item)
                return self._bounds.check(result)
            case ast.JoinedStr(values=parts):
                return self._bounds.check("".join(self._text_of(part) for part in parts))
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
                return self._bounds.check(self.value(container)[self._key(index)])
            case ast.ListComp(elt=element, generators=[generator]):
                return self._bounds.check([self.value(element) for _ in self._loop(generator)])
            case ast.DictComp(key=key, value=item, generators=[generator]):
                pairs = {self.value(key): self.value(item) for _ in self._loop(generator)}
                return self._bounds.check(pairs)
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
        return copy.deepcopy(value)  # other files may inherit the same base

    def _text_of(self, part: ast.expr) -> str:
        match part:
            case ast.Constant(value=text):
                return str(text)
            case ast.FormattedValue(value=value, conversion=conversion, format_spec=spec):
                result = self._bounds.check(self.value(value))
                if conversion == ord("r"):
                    result = repr(result)
                form = self.value(spec) if spec else ""
                check_width(form)
                return format(result, form)
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
        self._bounds.check([arguments, named])
        match node.func:
            case ast.Name(id="range"):
                numbers = range(*arguments)
                if len(numbers) > MAX_ELEMENTS:
                    raise TooLargeError(f"more than {MAX_ELEMENTS} elements")
                return list(numbers)
            case ast.Name(id=name) if name in _FUNCTIONS:
                check_operands(name, (*arguments, *named.values()) or (None,))
                return self._checked(_FUNCTIONS[name](*arguments, **named))
            case ast.Attribute(value=owner, attr=method):
                value = self.value(owner)
                if method in _METHODS.get(type(value), ()):
                    self._bounds.check(value)
                    return self._checked(getattr(value, method)(*arguments, **named))
        raise self._refused(node, "this function is not called when a configuration is read")

    def _operate(self, node: ast.AST, op: ast.AST, *operands: Any) -> Any:
        if type(op) not in _OPERATORS:
            raise self._refused(node, "this operator is not used in settings")
        self._bounds.check(list(operands))  # an item of one may have grown since it was made
        check_operands(type(op).__name__, operands)
        return self._checked(_OPERATORS[type(op)](*operands))

    def _checked(self, result: Any) -> Any:
        """Views and iterators as lists: what they give would come to be without a measure."""
        return self._bounds.check(list(result) if isinstance(result, _VIEWS) else result)

    def _guarded(self, node: ast.AST, compute: Callable[[], Any]) -> Any:
        try:
            return compute()
        except UserError:
            raise
        except TooLargeError as error:
            raise self._refused(node, str(error)) from None
        except RecursionError:
            raise self._refused(node, "nested too deeply") from None
        except MemoryError:
            raise self._refused(node, "it needs too much memory") from None
        except _ERRORS as error:
            raise self._refused(node, f"{type(error).__name__}: {error}") from None

    def _refused(self, node: ast.AST, reason: str) -> UserError:
        line = getattr(node, "lineno", "?")
        try:
            text = " ".join(ast.unparse(node).split())
            shown = text if len(text) <= 60 else text[:57] + "..."
        except (RecursionError, ValueError):  # ValueError: a number with too many digits
            shown = "..."
        return UserError(f"{self._path}, line {line}: `{shown}`: {reason:.200}")


def _as_load(target: ast.expr) -> ast.expr:
    node = ast.parse(ast.unparse(target), mode="eval").body
    return ast.copy_location(node, target)
