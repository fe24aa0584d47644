"""What the API server and the operator's webhook refuse: the CRD's schema, unknown fields, and the
webhook's own rules (Training Operator v1.9)."""

from __future__ import annotations

import copy
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from tests.cluster.kube.store import Object, StatusError

FILES = {
    "pytorchjobs": "kubeflow.org_pytorchjobs.v1.yaml",
    "trainjobs": "trainer.kubeflow.org_trainjobs.v1alpha1.yaml",
}
DNS_1035 = r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?"


class Admission:
    def __init__(self, crds: Path) -> None:
        """crds: the folder with the CustomResourceDefinitions."""
        self._schemas = {plural: _read(crds / name) for plural, name in FILES.items()}

    @cache  # noqa: B019 one for each cluster
    def _validator(self, plural: str, strict: bool) -> Draft202012Validator:
        schema = self._schemas[plural]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        return Draft202012Validator(_json_schema(copy.deepcopy(schema), strict))

    def check(self, plural: str, item: Object, *, strict: bool) -> None:
        """Raises the StatusError that the server would answer with."""
        if plural not in FILES:
            return
        name = item["metadata"].get("name", "")
        errors = sorted(self._validator(plural, False).iter_errors(item), key=str)
        if errors:
            raise StatusError(422, "Invalid", f'{plural} "{name}" is invalid: {_say(errors[0])}')
        unknown = list(self._validator(plural, True).iter_errors(item))
        if strict and unknown:
            raise StatusError(400, "BadRequest", f"strict decoding error: {_say(unknown[0])}")
        problems = list(_webhook(item)) if plural == "pytorchjobs" else []
        if not re.fullmatch(DNS_1035, name):
            problems.append(f'metadata.name: Invalid value: "{name}": a DNS-1035 label')
        if problems:
            raise StatusError(
                403,
                "Forbidden",
                f'admission webhook "validator.{plural}" denied the request: {problems[0]}',
            )


@cache
def _read(path: Path) -> Object:
    found: Object = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
    return found


def _json_schema(node: Any, strict: bool) -> Any:
    """A structural schema of Kubernetes as JSON schema."""
    if isinstance(node, list):
        return [_json_schema(each, strict) for each in node]
    if not isinstance(node, dict):
        return node
    node = {
        key: {name: _json_schema(each, strict) for name, each in value.items()}
        if key == "properties"
        else _json_schema(value, strict)
        for key, value in node.items()
        if key not in {"description", "default", "format"}
    }
    if node.get("x-kubernetes-int-or-string"):
        node.pop("type", None)
        node["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    closed = "properties" in node and not node.get("x-kubernetes-preserve-unknown-fields")
    if strict and closed:
        node.setdefault("additionalProperties", False)
    return node


def _webhook(job: Object) -> Any:
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


def _say(error: Any) -> str:
    return f"{'.'.join(str(part) for part in error.absolute_path)}: {error.message}"[:300]
