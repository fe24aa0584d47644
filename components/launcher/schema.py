"""What the API server's own schema of a kind knows, and what of a job it does not know."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from components.kube.api import Api, Object, Resource
from components.kube.errors import ApiError

CONFIRM_S = 3.0

# A place in an object: keys, and positions in lists.
Place = tuple[str | int, ...]


def is_served(api: Api, resource: Resource) -> bool:
    """Whether the cluster has this kind, in this version.

    A server that has just started answers 404 until it knows its CustomResourceDefinitions: a no
    is asked for twice.
    """
    for pause in (0.0, CONFIRM_S):
        time.sleep(pause)
        found, _ = api.look(f"/apis/{resource.group}/{resource.version}", public=True)
        if any(each["name"] == resource.plural for each in (found or {}).get("resources", [])):
            return True
    return False


def served_schema(api: Api, resource: Resource, kind: str) -> Object | None:
    """The OpenAPI schema of a kind; None if the server does not publish it, or not now."""
    try:
        document, _ = api.brief().look(f"/openapi/v3/apis/{resource.group}/{resource.version}")
    except ApiError:
        document = None
    schemas: Object = (document or {}).get("components", {}).get("schemas", {})
    wanted = {"group": resource.group, "version": resource.version, "kind": kind}
    return next(
        (s for s in schemas.values() if wanted in s.get("x-kubernetes-group-version-kind", [])),
        None,
    )


def unknown_places(item: Any, schema: Object, at: Place = ()) -> Iterator[Place]:
    """Every place in an object that a strict server would refuse because it does not know it.

    >>> schema = {"properties": {"spec": {"properties": {"suspend": {"type": "boolean"}}}}}
    >>> list(unknown_places({"spec": {"suspend": True, "nodes": 2}}, schema))
    [('spec', 'nodes')]
    """
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return
    if isinstance(item, list):
        for number, each in enumerate(item):
            yield from unknown_places(each, schema.get("items", {}), (*at, number))
    elif isinstance(item, dict):
        properties, others = schema.get("properties"), schema.get("additionalProperties")
        for key, value in item.items():
            if properties is not None and key in properties:
                yield from unknown_places(value, properties[key], (*at, key))
            elif isinstance(others, dict):
                yield from unknown_places(value, others, (*at, key))
            elif properties is not None:
                yield (*at, key)


def without(item: Object, place: Place) -> Object:
    """A copy of an object that lacks one place; the object itself if it has no such place."""

    def copy(node: Any, rest: Place) -> Any:
        key, *deeper = rest
        if isinstance(node, list):
            assert isinstance(key, int)
            return [*node[:key], copy(node[key], tuple(deeper)), *node[key + 1 :]]
        if key not in node:
            return node
        if not deeper:
            return {name: value for name, value in node.items() if name != key}
        return node | {key: copy(node[key], tuple(deeper))}

    found: Object = copy(item, place)
    return found


def dotted(place: Place) -> str:
    """As Kubernetes writes it: `spec.volumes[0].name`."""
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in place).lstrip(".")
