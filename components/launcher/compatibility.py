"""Fits a job to a cluster: only fields that its API knows, on a runtime that is there."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from components.kube.api import Api, Object, Resource
from components.kube.errors import ApiError
from components.launcher.kinds import Kind
from components.launcher.runtime import about_grace, differences, missing_runtime, runtime_path
from components.profile import Cluster
from sdpose.errors import UserError

logger = logging.getLogger(__name__)

# A place in an object: keys, and positions in lists.
Place = tuple[str | int, ...]

# What the oldest Trainer does not take, and the runtime says as well, see `fit`.
OPTIONAL: tuple[Place, ...] = (
    # Since 2.3.
    (
        *("spec", "runtimePatches", 0, "trainingRuntimeSpec", "template"),
        *("spec", "replicatedJobs", 0, "template"),
        *("spec", "template", "spec", "terminationGracePeriodSeconds"),
    ),
)


def fit(job: Object, schema: Object | None = None) -> tuple[Object, list[Place]]:
    """The job as a schema takes it, and what was left out because something else says it.

    schema: of the API server; None for a cluster that nobody can ask: then the job is what the
    oldest supported version takes.
    Raises UserError for what the schema does not know and nothing else can say.
    """
    optional = OPTIONAL if job["kind"] == "TrainJob" else ()
    left_out = list(optional) if schema is None else list(unknown_places(job, schema))
    if refused := [dotted(place) for place in left_out if place not in optional]:
        raise UserError(
            f"this cluster's {job['kind']} ({job['apiVersion']}) does not know "
            f"{', '.join(refused)}: its operator is older than docs/cluster.md requires; "
            "update it, or choose another train_api"
        )
    for place in left_out:
        job = without(job, place)
    return job, left_out


def fit_to_cluster(api: Api, kind: Kind, cluster: Cluster, job: Object) -> Object:
    """The job as this cluster takes it; logs what it does not take from the profile.

    Raises UserError if the cluster could not run it as the profile says.
    """
    fitted, left_out = fit(job, served_schema(api, kind.resource, kind.name))
    if kind.name != "TrainJob":
        return fitted
    where = f"{cluster.runtime_kind} {cluster.runtime}"
    if left_out:
        keys = ", ".join(sorted({str(place[-1]) for place in left_out}))
        logger.info(
            f"this cluster's TrainJob takes no {keys} (Trainer 2.3 does): it comes from {where}"
        )
    runtime, readable = api.look(runtime_path(cluster))
    if not readable:
        logger.info(f"{where} is not ours to read: what it says is not compared with the profile")
        return fitted
    found = [missing_runtime(cluster)] if runtime is None else differences(runtime, cluster)
    if broken := [each for each in found if each.breaks]:
        raise UserError("\n".join(f"{each.text}; {each.remedy}" for each in broken))
    assert runtime is not None
    notes = [each.text for each in found]
    if left_out and (grace := about_grace(runtime, cluster)):
        notes.append(grace)
    for note in notes:
        logger.info(f"{where}: {note}")
    return fitted


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
