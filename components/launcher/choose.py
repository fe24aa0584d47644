"""Which of the two kinds of job a run has."""

from __future__ import annotations

from collections.abc import Callable

from components.kube.api import Api
from components.launcher.kinds import kinds_of
from components.launcher.schema import is_served
from components.profile import Cluster
from sdpose.errors import UserError

# Without a cluster that can be asked.
ASSUMED = "trainjob"


def choose(api: Api, cluster: Cluster, name: str, say: Callable[[str], None]) -> Cluster:
    """The profile with `train_api: auto` decided.

    name: of the run's job. One that exists decides, whatever the cluster has by now: a run whose
    choice changed between two launchers would have two jobs.
    Raises UserError if the cluster has none of the kinds.
    """
    if cluster.train_api != "auto":
        return cluster
    served = [kind for kind in kinds_of(cluster) if is_served(api, kind.resource)]
    if not served:
        raise UserError(no_kind(cluster))
    existing = next((kind for kind in served if api.get(kind.resource, name)), None)
    kind = existing or served[0]
    reason = "this run has one" if existing else f"this cluster has {kind.operator}"
    say(f"train_api auto: {kind.name}, because {reason}")
    return cluster.model_copy(update={"train_api": kind.train_api})


def no_kind(cluster: Cluster) -> str:
    """That the cluster has no kind that the profile allows, and what to do."""
    resources = [kind.resource for kind in kinds_of(cluster)]
    kinds = " and no ".join(f"{each.plural}.{each.group}/{each.version}" for each in resources)
    operators = " or ".join(kind.operator for kind in kinds_of(cluster))
    return f"this cluster knows no {kinds}: install {operators}"


def assume(cluster: Cluster) -> tuple[Cluster, list[str]]:
    """The profile with `auto` decided without a cluster, and what people must know of the job that
    is built from it."""
    notes = []
    if cluster.train_api == "auto":
        cluster = cluster.model_copy(update={"train_api": ASSUMED})
        notes.append(
            "train_api auto: assumed is a TrainJob; a cluster without Kubeflow Trainer gets a "
            "PyTorchJob (--train-api pytorchjob shows it)"
        )
    if cluster.train_api == "trainjob":
        notes.append(
            f"from {cluster.runtime_kind} {cluster.runtime}, not from the profile: priority_class, "
            "image_pull_policy, ttl_seconds_after_finished, and with Trainer 2.2 "
            "termination_grace_seconds"
        )
    return cluster, notes
