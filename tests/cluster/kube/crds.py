"""The CustomResourceDefinitions of a cluster: what its API server knows, and publishes."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from tests.cluster.kube.store import Object

# Of Kubeflow Trainer, oldest first; "main" is a commit after 2.3.0 (without TrainingRuntime).
TRAINERS = ("2.2.0", "2.3.0", "main")
OBJECT_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
CLUSTER_RUNTIME = "clustertrainingruntimes"


class Crds:
    def __init__(self, folder: Path, trainer: str) -> None:
        """folder: tests/third_party/crds. trainer: one of TRAINERS."""
        versioned = folder / f"trainer-v{trainer}"
        runtimes = versioned if trainer != "main" else folder / f"trainer-v{TRAINERS[-2]}"
        jobs = versioned / "trainjobs.yaml"
        if trainer == "main":
            jobs = folder / "trainer.kubeflow.org_trainjobs.v1alpha1.yaml"
        self._files = {
            "pytorchjobs": folder / "kubeflow.org_pytorchjobs.v1.yaml",
            "trainjobs": jobs,
            "trainingruntimes": runtimes / "trainingruntimes.yaml",
            # The same schema, but for its names.
            CLUSTER_RUNTIME: runtimes / "trainingruntimes.yaml",
        }
        self._crds = {plural: _read(path) for plural, path in self._files.items()}
        self._crds[CLUSTER_RUNTIME] = _cluster_wide(self._crds[CLUSTER_RUNTIME])

    def __contains__(self, plural: str) -> bool:
        return plural in self._crds

    def validator(self, plural: str, *, strict: bool) -> Draft202012Validator:
        """strict: unknown fields are errors."""
        return _validator(self._files[plural], strict)

    def resources(self, group: str, version: str, without: set[str]) -> Object | None:
        """The APIResourceList of a group's version; None if there is none."""
        found = self._of(group, version, without)
        if not found:
            return None
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": f"{group}/{version}",
            "resources": [
                {
                    "name": plural,
                    "kind": crd["spec"]["names"]["kind"],
                    "namespaced": crd["spec"]["scope"] == "Namespaced",
                }
                for plural, crd in found.items()
            ],
        }

    def openapi(self, group: str, version: str, without: set[str]) -> Object | None:
        """The OpenAPI v3 document of a group's version, as apiextensions publishes it."""
        found = self._of(group, version, without)
        if not found:
            return None
        prefix = ".".join(reversed(group.split(".")))
        schemas: Object = {OBJECT_META: {"type": "object", "description": "(shortened)"}}
        for plural, crd in found.items():
            kind = crd["spec"]["names"]["kind"]
            schema = self._schema(plural)
            metadata = {
                "description": "Standard object's metadata.",
                "allOf": [{"$ref": f"#/components/schemas/{OBJECT_META}"}],
            }
            schemas[f"{prefix}.{version}.{kind}"] = schema | {
                "properties": schema["properties"] | {"metadata": metadata},
                "x-kubernetes-group-version-kind": [
                    {"group": group, "kind": kind, "version": version}
                ],
            }
        info = {"title": "Kubernetes CRD Swagger", "version": "v0.1.0"}
        return {"openapi": "3.0.0", "info": info, "paths": {}, "components": {"schemas": schemas}}

    def _of(self, group: str, version: str, without: set[str]) -> dict[str, Object]:
        return {
            plural: crd
            for plural, crd in self._crds.items()
            if plural not in without
            and crd["spec"]["group"] == group
            and crd["spec"]["versions"][0]["name"] == version
        }

    def _schema(self, plural: str) -> Object:
        found: Object = self._crds[plural]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        return found


@cache
def _validator(path: Path, strict: bool) -> Draft202012Validator:
    schema = _read(path)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return Draft202012Validator(_json_schema(copy.deepcopy(schema), strict))


@cache
def _read(path: Path) -> Object:
    documents = yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader)
    found: Object = next(each for each in documents if each)
    return found


def _cluster_wide(crd: Object) -> Object:
    names = {"kind": "ClusterTrainingRuntime", "plural": CLUSTER_RUNTIME}
    return crd | {"spec": crd["spec"] | {"scope": "Cluster", "names": names}}


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
