"""KFP's REST interface as a release of its server declares it (Swagger 2.0)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jsonschema

Object = dict[str, Any]

VERSIONS = ("2.15.0", "2.16.1", "2.17.0")
# The server answers this path itself, with more than it declares: backend/src/apiserver/main.go.
UNDECLARED = {"/apis/v2beta1/healthz": {"commit_sha", "tag_name"}}

formats = jsonschema.FormatChecker(())


@formats.checks("date-time", raises=ValueError)
def _is_time(value: object) -> bool:
    return not isinstance(value, str) or bool(datetime.fromisoformat(value).tzinfo)


@dataclass(frozen=True)
class Operation:
    method: str
    path: str  # as it is declared, with {names}
    declared: Object

    def parameters(self, place: str) -> list[Object]:
        return [each for each in self.declared.get("parameters", []) if each["in"] == place]


class Declaration:
    """Finds what of a request or an answer the release does not declare."""

    def __init__(self, folder: Path, version: str) -> None:
        document = json.loads((folder / f"kfp-{version}.swagger.json").read_text(encoding="utf-8"))
        self.version = version
        self._definitions = _strict(document["definitions"])
        self._operations = [
            (re.compile(re.sub(r"\\{[^}]+\\}", "[^/:]+", re.escape(path))), operation)
            for path, operation in sorted(_operations(document), key=lambda each: "{" in each[0])
        ]

    def operation(self, method: str, path: str) -> Operation | None:
        for pattern, operation in self._operations:
            if operation.method == method and pattern.fullmatch(path):
                return operation
        return None

    def of_request(self, operation: Operation, query: Object, body: Object | None) -> list[str]:
        """What is wrong with a request. body: None for a form."""
        known = {each["name"] for each in operation.parameters("query")}
        wrong = [f"unknown query parameter {name}" for name in query if name not in known]
        [declared] = operation.parameters("body") or [None]
        if declared is not None:
            wrong += self._mismatches(declared["schema"], body)
        elif body:
            wrong.append(f"a body where none is declared: {body}")
        return wrong

    def of_answer(self, operation: Operation, status: int, content: object) -> list[str]:
        responses = operation.declared["responses"]
        schema = responses.get(str(status), responses["default"])["schema"]
        undeclared = UNDECLARED.get(operation.path, set())
        if undeclared and isinstance(content, dict):
            content = {key: value for key, value in content.items() if key not in undeclared}
        return self._mismatches(schema, content)

    def _mismatches(self, schema: Object, value: object) -> list[str]:
        whole = {"definitions": self._definitions, "allOf": [_strict(schema)]}
        validator = jsonschema.Draft4Validator(whole, format_checker=formats)
        return [
            f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
            for error in validator.iter_errors(value)
        ]


def _operations(document: Object) -> Iterator[tuple[str, Operation]]:
    for path, methods in document["paths"].items():
        for method, declared in methods.items():
            if method != "parameters":
                yield path, Operation(method.upper(), path, declared)


def _strict(schema: Any) -> Any:
    """Unknown fields are errors, as for the server's JSON decoder."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return {"$ref": schema["$ref"]}
    strict = {key: _strict(value) for key, value in schema.items()}
    if isinstance(strict.get("properties"), dict) and strict.get("type") == "object":
        strict.setdefault("additionalProperties", False)
    return strict
