"""A ValidatingAdmissionPolicy as an API server evaluates it: match conditions, variables, then
validations, each a CEL expression."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cel_expr_python import cel

Object = dict[str, Any]


class Policy:
    """One policy and what it says to a request."""

    def __init__(self, policy: Object) -> None:
        self._spec = policy["spec"]
        self._env = cel.NewEnv(
            variables=dict.fromkeys(("object", "request", "params", "variables"), cel.Type.DYN)
        )

    def rules(self) -> list[Object]:
        rules: list[Object] = self._spec["matchConstraints"]["resourceRules"]
        return rules

    def refusals(self, new: Object, request: Object, params: Object | None) -> list[str]:
        """The messages of the validations that refuse the object; none if it does not apply.

        Raises:
            RuntimeError: an expression cannot be evaluated: a refusal, too (failurePolicy).
        """
        data: Object = {"object": new, "request": request, "params": params, "variables": {}}
        if not all(self._value(each["expression"], data) for each in self._spec["matchConditions"]):
            return []
        # An API server evaluates a variable when it is used first; these have no cost to spare.
        for variable in self._spec["variables"]:
            data["variables"][variable["name"]] = self._value(variable["expression"], data)
        return list(self._refusals(data))

    def _refusals(self, data: Mapping[str, Any]) -> Iterator[str]:
        for validation in self._spec["validations"]:
            if self._value(validation["expression"], data) is not True:
                yield validation["message"]

    def _value(self, expression: str, data: Mapping[str, Any]) -> Any:
        value = self._env.compile(expression).eval(data=data)
        if value.type() == cel.Type.ERROR:
            raise RuntimeError(f"{expression}: {value.plain_value()}")
        return value.plain_value()
