"""A job as this cluster takes it: only what its API knows, on a runtime that is there."""

from __future__ import annotations

from collections.abc import Callable

from components.kube.api import Api, Object
from components.launcher import trainjob
from components.launcher.kinds import Kind
from components.launcher.runtime import about_grace, differences, missing_runtime, runtime_path
from components.launcher.schema import Place, dotted, served_schema, unknown_places, without
from components.profile import Cluster
from sdpose.errors import UserError


def fit(job: Object, schema: Object | None = None) -> tuple[Object, list[Place]]:
    """The job as a schema takes it, and what was left out because something else says it.

    schema: of the API server; None for a cluster that nobody can ask: then the job is what the
    oldest supported version takes.
    Raises UserError for what the schema does not know and nothing else can say.
    """
    optional = trainjob.OPTIONAL if job["kind"] == "TrainJob" else ()
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


def fit_to_cluster(
    api: Api, kind: Kind, cluster: Cluster, job: Object, say: Callable[[str], None]
) -> Object:
    """The job as this cluster takes it; says what it does not take from the profile.

    Raises UserError if the cluster could not run it as the profile says.
    """
    fitted, left_out = fit(job, served_schema(api, kind.resource, kind.name))
    if kind.name != "TrainJob":
        return fitted
    where = f"{cluster.runtime_kind} {cluster.runtime}"
    if left_out:
        keys = ", ".join(sorted({str(place[-1]) for place in left_out}))
        say(f"this cluster's TrainJob takes no {keys} (Trainer 2.3 does): it comes from {where}")
    runtime, readable = api.look(runtime_path(cluster))
    if not readable:
        say(f"{where} is not ours to read: what it says is not compared with the profile")
        return fitted
    found = [missing_runtime(cluster)] if runtime is None else differences(runtime, cluster)
    if broken := [each for each in found if each.breaks]:
        raise UserError("\n".join(f"{each.text}; {each.remedy}" for each in broken))
    assert runtime is not None
    notes = [each.text for each in found]
    if left_out and (grace := about_grace(runtime, cluster)):
        notes.append(grace)
    for note in notes:
        say(f"{where}: {note}")
    return fitted
