"""The TrainingRuntime of a TrainJob: what it must have, and where it differs from the profile.

A TrainJob cannot set everything that the profile says. The rest is the runtime's: whoever starts a
job compares the two, so that no key of the profile is ignored without a word.
"""

from __future__ import annotations

from dataclasses import dataclass

from components.kube.api import Object
from components.launcher.kinds import (
    TRAINER_CONTAINER,
    TRAINER_GROUP,
    TRAINER_JOB,
    TRAINER_VERSION,
)
from components.profile import Cluster
from sdpose.errors import USER_ERROR_EXIT_CODE

ANCESTOR_LABEL = "trainer.kubeflow.org/trainjob-ancestor-step"
# Kubernetes' own.
DEFAULT_GRACE_S = 30
DEFAULT_BACKOFF_LIMIT = 6


@dataclass(frozen=True)
class Difference:
    """Between a runtime and the profile, for people."""

    text: str
    remedy: str = ""
    breaks: bool = False  # the job could not start, or something that was asked for would not hold


def runtime_path(cluster: Cluster) -> str:
    """Of the runtime that the profile names, in the API."""
    scope = "" if cluster.runtime_kind.startswith("Cluster") else f"namespaces/{cluster.namespace}/"
    plural = f"{cluster.runtime_kind.lower()}s"
    return f"/apis/{TRAINER_GROUP}/{TRAINER_VERSION}/{scope}{plural}/{cluster.runtime}"


def missing_runtime(cluster: Cluster) -> Difference:
    """There is no such runtime: Trainer would refuse the TrainJob."""
    return Difference(
        f"there is no {cluster.runtime_kind} {cluster.runtime}",
        "kubectl apply an overlay that has k8s/components/trainer (it makes TrainingRuntime "
        "sdpose), correct the profile's runtime and runtime_kind, or use train_api: pytorchjob",
        breaks=True,
    )


def differences(runtime: Object, cluster: Cluster) -> list[Difference]:
    """Everything in which the runtime is not what the profile says."""
    remedy = (
        f"change {cluster.runtime_kind} {cluster.runtime} (k8s/components/trainer), or the profile"
    )
    job = _node(runtime)
    template: Object = job.get("spec", {})
    pod = template.get("template", {}).get("spec", {})
    container = next((c for c in pod.get("containers", []) if c["name"] == TRAINER_CONTAINER), None)
    labels = job.get("metadata", {}).get("labels", {})
    if (
        container is None
        or labels.get(ANCESTOR_LABEL) != "trainer"
        or "torch" not in (runtime["spec"].get("mlPolicy") or {})
    ):
        return [
            Difference(
                f"{cluster.runtime_kind} {cluster.runtime} is no runtime for PyTorch: it needs "
                f"mlPolicy.torch, and a replicated job '{TRAINER_JOB}' with the label "
                f"{ANCESTOR_LABEL}: trainer and a container '{TRAINER_CONTAINER}'",
                "name another runtime in the profile",
                breaks=True,
            )
        ]
    found = []
    for key, wanted, there in (
        ("priority_class", cluster.priority_class, pod.get("priorityClassName")),
        (
            "image_pull_policy",
            # The profile's default is what Kubernetes does with an image by digest.
            None if cluster.image_pull_policy == "IfNotPresent" else cluster.image_pull_policy,
            container.get("imagePullPolicy"),
        ),
    ):
        if wanted and wanted != there:
            found.append(
                Difference(
                    f"{key} is {wanted} in the profile and {there or 'not set'} in the runtime, "
                    "which decides",
                    remedy,
                    breaks=True,
                )
            )
    texts = [
        _about_ttl(_jobset(runtime), cluster),
        _about_failures(template.get("podFailurePolicy") or {}),
        _about_restarts(template, cluster),
    ]
    return found + [Difference(text, remedy) for text in texts if text]


def about_grace(runtime: Object, cluster: Cluster) -> str:
    """What holds where a TrainJob cannot set termination_grace_seconds; "" if it is enough."""
    pod = _node(runtime)["spec"]["template"]["spec"]
    there = pod.get("terminationGracePeriodSeconds", DEFAULT_GRACE_S)
    if there >= cluster.termination_grace_seconds:
        return ""
    return (
        f"pods have {there} s between SIGTERM and SIGKILL, as the runtime says, not "
        f"{cluster.termination_grace_seconds} s (termination_grace_seconds)"
    )


def _jobset(runtime: Object) -> Object:
    """The spec of the JobSet that is made of it; the schema lets it be missing."""
    return runtime["spec"].get("template", {}).get("spec") or {}


def _node(runtime: Object) -> Object:
    """The template of the Job that trains; {} if there is none."""
    jobs = _jobset(runtime).get("replicatedJobs") or []
    return next((each["template"] for each in jobs if each["name"] == TRAINER_JOB), {})


def _about_ttl(jobset: Object, cluster: Cluster) -> str:
    there, wanted = jobset.get("ttlSecondsAfterFinished"), cluster.ttl_seconds_after_finished
    if there == wanted:
        return ""
    kept = "until the run's Workflow or somebody deletes it" if there is None else f"{there} s"
    return (
        f"an ended job's pods are kept {kept}, as the runtime says, not {wanted} s "
        "(ttl_seconds_after_finished)"
    )


def _about_failures(policy: Object) -> str:
    rules = policy.get("rules") or []
    ends = any(
        rule["action"] == "FailJob"
        and USER_ERROR_EXIT_CODE in (rule.get("onExitCodes") or {}).get("values", [])
        for rule in rules
    )
    spares = any(
        rule["action"] == "Ignore"
        and any(c["type"] == "DisruptionTarget" for c in rule.get("onPodConditions") or [])
        for rule in rules
    )
    missing = [
        *([] if ends else [f"exit code {USER_ERROR_EXIT_CODE} does not end the job at once"]),
        *([] if spares else ["evicted and preempted pods count as failures"]),
    ]
    return f"the runtime's podFailurePolicy lacks rules: {' and '.join(missing)}" if missing else ""


def _about_restarts(template: Object, cluster: Cluster) -> str:
    by_index = template.get("backoffLimitPerIndex")
    limit = template.get("backoffLimit", DEFAULT_BACKOFF_LIMIT) if by_index is None else by_index
    wanted = cluster.restarts.preemption + cluster.restarts.crash
    if limit >= wanted:
        return ""
    what = "all pods together" if by_index is None else "each pod"
    return (
        f"the job ends after {limit} failures of {what}, as the runtime's backoff limit says, "
        f"before the {wanted} that the profile allows each pod (restarts)"
    )
