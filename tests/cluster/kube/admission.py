"""What the API server and the operators' webhooks refuse: the CRD's schema, unknown fields, and the
webhooks' own rules (Training Operator v1.9, Kubeflow Trainer v2)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from tests.cluster.kube.crds import Crds
from tests.cluster.kube.store import Object, StatusError

DNS_1035 = r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?"
RESERVED = re.compile(r"PET_\w+")  # Trainer's own variables
EXPECTED_CONTAINERS = {
    "trainer": "node",
    "dataset-initializer": "dataset-initializer",
    "model-initializer": "model-initializer",
}
ANCESTOR = "trainer.kubeflow.org/trainjob-ancestor-step"
# The runtime that a TrainJob names; None if there is none.
FindRuntime = Callable[[Object], Object | None]


class Admission:
    def __init__(self, crds: Crds, find_runtime: FindRuntime = lambda _job: None) -> None:
        self._crds, self._find_runtime = crds, find_runtime

    def check(self, plural: str, item: Object, *, strict: bool) -> None:
        """Raises the StatusError that the server would answer with."""
        if plural not in self._crds:
            return
        self.check_schema(plural, item, strict=strict)
        name = item["metadata"].get("name", "")
        problems = list(self._webhook(plural, item))
        if not re.fullmatch(DNS_1035, name):
            problems.append(f'metadata.name: Invalid value: "{name}": a DNS-1035 label')
        if problems:
            raise StatusError(
                403,
                "Forbidden",
                f'admission webhook "validator.{plural}" denied the request: {problems[0]}',
            )

    def check_schema(self, plural: str, item: Object, *, strict: bool) -> None:
        """What the server itself refuses, before it asks a webhook."""
        name = item["metadata"].get("name", "")
        errors = sorted(self._crds.validator(plural, strict=False).iter_errors(item), key=str)
        if errors:
            raise StatusError(422, "Invalid", f'{plural} "{name}" is invalid: {_say(errors[0])}')
        unknown = list(self._crds.validator(plural, strict=True).iter_errors(item))
        if strict and unknown:
            raise StatusError(400, "BadRequest", f"strict decoding error: {_say(unknown[0])}")

    def _webhook(self, plural: str, item: Object) -> Iterator[str]:
        if plural == "pytorchjobs":
            yield from _pytorchjob(item)
        elif plural == "trainjobs":
            runtime = self._find_runtime(item)
            if runtime is None:
                yield (
                    "spec.runtimeRef: Invalid value: specified trainingRuntime must be created "
                    "before the TrainJob is created"
                )
            else:
                yield from _trainjob(item, runtime)
        else:
            yield from _runtime(item)


def _pytorchjob(job: Object) -> Iterator[str]:
    """pkg/webhooks/pytorch/pytorchjob_webhook.go"""
    elastic = job["spec"].get("elasticPolicy") or {}
    if "nProcPerNode" in elastic and "nprocPerNode" in job["spec"]:
        yield "spec.elasticPolicy.nProcPerNode: Forbidden: must not be used with nprocPerNode"
    for kind, replica in job["spec"]["pytorchReplicaSpecs"].items():
        path = f"spec.pytorchReplicaSpecs[{kind}]"
        if kind not in {"Master", "Worker"}:
            yield f"{path}: Unsupported value: supported values: Master, Worker"
        containers = replica.get("template", {}).get("spec", {}).get("containers", [])
        if not any(container.get("name") == "pytorch" for container in containers):
            yield f"{path}.template.spec.containers: must have a container with name pytorch"
        if any(not container.get("image") for container in containers):
            yield f"{path}.template.spec.containers[0].image: must be required"
        if kind == "Master" and replica.get("replicas") != 1:
            yield f"{path}.replicas: Forbidden: must be 1"


def _trainjob(job: Object, runtime: Object) -> Iterator[str]:
    """pkg/runtime/framework/plugins/{jobset/jobset.go,torch/torch.go}: Validate"""
    names = {
        each["name"]: {
            container["name"]
            for key in ("initContainers", "containers")
            for container in each["template"]["spec"]["template"]["spec"].get(key, [])
        }
        for each in runtime["spec"]["template"]["spec"]["replicatedJobs"]
    }
    path = "spec.runtimePatches: Invalid value: must not have"
    for patch in job["spec"].get("runtimePatches", []):
        if not re.fullmatch(r"[a-z0-9.-]+/[\w.-]+", patch["manager"]):
            yield "spec.runtimePatches.manager: must be a domain-prefixed path"
        spec = patch.get("trainingRuntimeSpec", {}).get("template", {}).get("spec", {})
        for replicated in spec.get("replicatedJobs", []):
            name = replicated["name"]
            if name not in names:
                yield f"{path} replicated job that doesn't exist in the runtime job template"
                continue
            pod = replicated.get("template", {}).get("spec", {}).get("template", {}).get("spec", {})
            for container in pod.get("containers", []):
                if container["name"] not in names[name]:
                    yield f"{path} container that doesn't exist in the runtime job {name}"
                elif container.get("env"):
                    yield f"{path} envs for the node container"
    variables = [entry["name"] for entry in job["spec"].get("trainer", {}).get("env", [])]
    if reserved := [name for name in variables if RESERVED.fullmatch(name)]:
        yield f"spec.trainer.env: Invalid value: must not have reserved envs: {reserved}"


def _runtime(runtime: Object) -> Iterator[str]:
    """pkg/webhooks/trainingruntime_webhook.go, and what only fails once a job is made of it."""
    for number, job in enumerate(runtime["spec"]["template"]["spec"]["replicatedJobs"]):
        path = f"spec.template.spec.replicatedJobs[{number}]"
        ancestor = job["template"].get("metadata", {}).get("labels", {}).get(ANCESTOR)
        if ancestor not in EXPECTED_CONTAINERS:
            continue
        if job.get("replicas", 1) != 1:
            yield f"{path}.replicas: must be 1"
        spec = job["template"]["spec"]["template"]["spec"]
        if EXPECTED_CONTAINERS[ancestor] not in {c["name"] for c in spec["containers"]}:
            yield f"{path}.template.spec.template.spec.containers: must have container"
        yield from (f"{path}.template.spec.{text}" for text in _job(job["template"]["spec"]))


def _job(spec: Object) -> Iterator[str]:
    """pkg/apis/batch/validation: of what our runtimes use."""
    policy = spec.get("podFailurePolicy")
    if policy and spec["template"]["spec"].get("restartPolicy") != "Never":
        yield "podFailurePolicy: only supported with a restartPolicy of Never"
    for rule in (policy or {}).get("rules", []):
        values = rule.get("onExitCodes", {}).get("values", [])
        if values != sorted(set(values)) or len(values) > 255 or 0 in values:
            yield "podFailurePolicy.rules.onExitCodes.values: ordered, unique, not 0, at most 255"
    if "maxFailedIndexes" in spec and "backoffLimitPerIndex" not in spec:
        yield "maxFailedIndexes: needs backoffLimitPerIndex"


def _say(error: Any) -> str:
    return f"{'.'.join(str(part) for part in error.absolute_path)}: {error.message}"[:300]
