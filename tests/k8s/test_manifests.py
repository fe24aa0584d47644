"""Every object is one that the API servers of 1.30 to 1.36 take, and the objects fit together."""

from __future__ import annotations

import copy
import functools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from components.launcher import build_job
from components.launcher.compatibility import fit
from components.launcher.pod import pod_security
from components.launcher.runtime import about_grace, differences
from components.profile import load_cluster
from sdpose.config import load_experiment
from tests.cluster.kube.admission import Admission
from tests.cluster.kube.crds import TRAINERS, Crds
from tests.cluster.kube.expansion import expand
from tests.cluster.kube.store import StatusError
from tests.cluster.kube.trainer import make_jobset
from tests.conftest import REPOSITORY
from tests.shipped import CRDS

Object = dict[str, Any]
Objects = Callable[[str], list[Object]]

# The base alone has no image to run. full: prod with every component.
OVERLAYS = ("overlays/dev", "overlays/prod", "overlays/full")
SINGLE_USER = "overlays/single-user"
VERSIONS = [f"1.{minor}" for minor in range(30, 37)]
# Kueue's schemas are on no package registry: queues.yaml is checked by nothing but a cluster.
UNCHECKED_GROUP = "kueue.x-k8s.io/"
WITH_A_CRD = {"PyTorchJob", "TrainingRuntime"}  # tested against that
CLUSTER_WIDE = {
    *("Namespace", "ClusterRole", "ClusterRoleBinding"),
    *("ResourceFlavor", "ClusterQueue", "Topology"),
    *("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"),
}
VOLUMES = {"configMap", "downwardAPI", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
PINNED = re.compile(r".+@sha256:[0-9a-f]{64}|.+:(?!latest$)[\w.-]+")


@pytest.fixture(autouse=True, scope="module")
def definitions_are_read_once() -> Iterator[None]:
    """kubernetes_validate reads megabytes for every object."""
    with pytest.MonkeyPatch.context() as patch:
        utils = kubernetes_validate.utils
        patch.setattr(utils, "schema_contents", functools.cache(utils.schema_contents))
        yield


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", [*OVERLAYS, SINGLE_USER])
def test_objects_match_the_schemas_of_kubernetes(
    everything: Objects, overlay: str, version: str
) -> None:
    for each in everything(overlay):
        if each["kind"] not in WITH_A_CRD and not each["apiVersion"].startswith(UNCHECKED_GROUP):
            kubernetes_validate.validate(each, version, strict=True)


def test_a_misspelt_key_is_no_valid_object(render: Objects) -> None:
    deployment = next(each for each in render("base") if each["kind"] == "Deployment")
    wrong = deployment | {"spec": deployment["spec"] | {"replica": 1}}
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        kubernetes_validate.validate(wrong, "1.36", strict=True)


def test_the_example_job_is_what_the_builder_makes(repository: Path) -> None:
    render = [sys.executable, "-m", "components.launcher", "render", "--exp", "sdpose_s_v1"]
    made = subprocess.run(
        [*render, "--cluster", "k8s/cluster.yaml"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    kept = (repository / "k8s/pytorchjob.yaml").read_text(encoding="utf-8")
    assert kept.endswith(made), "k8s/pytorchjob.yaml is old: run `make k8s/pytorchjob.yaml`"


@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_runtime_matches_the_crd_and_keeps_trainers_rules(
    render: Objects, trainer: str
) -> None:
    admission = Admission(Crds(CRDS, trainer))
    [runtime] = [each for each in render("overlays/prod") if each["kind"] == "TrainingRuntime"]
    admission.check("trainingruntimes", runtime, strict=True)
    assert runtime["metadata"]["labels"]["trainer.kubeflow.org/framework"] == "torch"
    runtime = copy.deepcopy(runtime)
    runtime["spec"]["template"]["spec"]["ttlSecondAfterFinished"] = 1
    with pytest.raises(StatusError, match="ttlSecondAfterFinished"):
        admission.check("trainingruntimes", runtime, strict=True)


def test_the_runtime_says_what_the_example_profile_says(render: Objects, repository: Path) -> None:
    """A run of k8s/cluster.yaml has nothing to report."""
    cluster = load_cluster(repository / "k8s/cluster.yaml", train_api="trainjob")
    [runtime] = [each for each in render("overlays/prod") if each["kind"] == "TrainingRuntime"]
    assert runtime["metadata"]["name"] == cluster.runtime
    assert runtime["metadata"]["namespace"] == cluster.namespace
    assert cluster.runtime_kind == runtime["kind"]
    assert differences(runtime, cluster) == []
    assert about_grace(runtime, cluster) == ""


def test_with_kueue_the_runtime_asks_for_a_topology_that_there_is(render: Objects) -> None:
    objects = {each["kind"]: each for each in render("overlays/prod")}
    [replicated] = objects["TrainingRuntime"]["spec"]["template"]["spec"]["replicatedJobs"]
    annotations = replicated["template"]["spec"]["template"]["metadata"]["annotations"]
    level = annotations["kueue.x-k8s.io/podset-preferred-topology"]
    topology = objects["Topology"]
    assert {"nodeLabel": level} in topology["spec"]["levels"]
    assert objects["ResourceFlavor"]["spec"]["topologyName"] == topology["metadata"]["name"]


def test_the_example_job_matches_the_crd(repository: Path) -> None:
    admission = Admission(Crds(CRDS, TRAINERS[0]))
    [job] = yaml.safe_load_all((repository / "k8s/pytorchjob.yaml").read_text(encoding="utf-8"))
    admission.check("pytorchjobs", job, strict=True)
    job["spec"]["runPolicy"]["cleanPodPolicies"] = "Running"
    with pytest.raises(StatusError, match="cleanPodPolicies"):
        admission.check("pytorchjobs", job, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_is_allowed_where_pod_security_is_restricted(
    everything: Objects, overlay: str
) -> None:
    namespace = next(each for each in everything(overlay) if each["kind"] == "Namespace")
    for mode in ("enforce", "warn", "audit"):
        assert namespace["metadata"]["labels"][f"pod-security.kubernetes.io/{mode}"] == "restricted"
    found = 0
    for name, template in _pod_templates(everything(overlay)):
        spec, found = template["spec"], found + 1
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), name
        assert {
            kind for volume in spec.get("volumes", []) for kind in set(volume) - {"name"}
        } <= VOLUMES
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, name
            assert security["capabilities"] == {"drop": ["ALL"]}, name
            # Beyond `restricted`, and what our images promise:
            assert security["readOnlyRootFilesystem"] is True, name
            assert container["resources"]["requests"], name
            assert PINNED.fullmatch(container["image"]), container["image"]
            # On its node's disk and in its memory, no container has more than it is given.
            for limited in ("memory", "ephemeral-storage"):
                assert limited in container["resources"]["limits"], f"{name}: {limited}"
            assert container["resources"]["requests"]["ephemeral-storage"], name
        for volume in spec.get("volumes", []):
            if "emptyDir" in volume:
                assert volume["emptyDir"]["sizeLimit"], f"{name}: {volume['name']}"
        # No pod of ours talks to the API server; variables of Services collide with MLflow's own.
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["enableServiceLinks"] is False, name
    assert found >= 4


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_the_steps_have_a_token(render: Objects, overlay: str) -> None:
    """In each of them KFP's launcher talks to the API server."""
    accounts = {
        each["metadata"]["name"]: each.get("automountServiceAccountToken", True)
        for each in render(overlay)
        if each["kind"] == "ServiceAccount"
    }
    assert [name for name, automounted in accounts.items() if automounted] == ["sdpose-pipeline"]
    assert "default" in accounts


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_pod_has_the_secrets_of_its_role(everything: Objects, overlay: str) -> None:
    expected = {
        "mlflow": {"mlflow-database", "s3-mlflow"},
        "postgres": {"mlflow-database"},
        "s3": {"s3-admin", "s3-data", "s3-mlflow", "s3-registry", "s3-training"},
        "make-bucket": {"s3-admin"},
        "mlflow-user": {"mlflow-auth", "mlflow-user"},
        "sdpose": {"s3-training"},
        "fetch-coco": set(),
    }
    if overlay == "overlays/full":
        expected["mlflow"] |= {"mlflow-auth"}
    for _, template in _pod_templates(everything(overlay)):
        name = template["metadata"]["labels"]["app.kubernetes.io/name"]
        named = {each for kind, each in _named(template["spec"]) if kind == "Secret"}
        assert named == expected[name], name


def test_the_s3_server_of_dev_gives_each_role_its_rights(render: Objects, tmp_path: Path) -> None:
    """The shell script that writes SeaweedFS's configuration, run with a program in its place."""
    [server] = [
        each
        for each in render("overlays/dev")
        if each["kind"] == "StatefulSet" and each["metadata"]["name"] == "s3"
    ]
    [container] = server["spec"]["template"]["spec"]["containers"]
    shell, option, script = container["command"]
    weed = tmp_path / "weed"
    weed.write_text('#!/bin/sh\necho "$*"\n')
    weed.chmod(0o755)
    roles = [source["prefix"] for source in container["envFrom"]]
    keys = {
        f"{role}AWS_{part}": f"{role}{part}"
        for role in roles
        for part in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY")
    }
    configuration = tmp_path / "s3.json"
    # (Kubernetes would replace $(NAME) if it knew a variable of that name.)
    script = expand(script, keys).replace("/tmp/s3.json", str(configuration))
    done = subprocess.run(
        [shell, option, script],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"} | keys,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"-s3.config={configuration}" in done.stdout
    identities = json.loads(configuration.read_text())["identities"]
    actions = {each["name"]: set(each["actions"]) for each in identities}
    for each in identities:
        [credential] = each["credentials"]
        assert credential == {
            "accessKey": f"{each['name'].upper()}_ACCESS_KEY_ID",
            "secretKey": f"{each['name'].upper()}_SECRET_ACCESS_KEY",
        }
    assert actions.pop("admin") == {"Admin"}
    writable = {
        name: {each.partition(":")[2] for each in allowed if each.startswith("Write:")}
        for name, allowed in actions.items()
    }
    assert writable == {
        "mlflow": {"sdpose-mlflow"},
        "training": {"sdpose-work"},
        "registry": {"sdpose", "sdpose-work"},
        "data": set(),
    }
    assert {"Admin", "Read", "Write"}.isdisjoint(set.union(*actions.values())), "of every bucket"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_whatever_an_object_names_is_there(everything: Objects, overlay: str) -> None:
    objects = everything(overlay)
    names: dict[str, set[str]] = {}
    for each in objects:
        names.setdefault(each["kind"], set()).add(each["metadata"]["name"])
        namespaced = each["kind"] not in CLUSTER_WIDE
        assert each["metadata"].get("namespace") == ("sdpose" if namespaced else None), each
    for _, template in _pod_templates(objects):
        spec = template["spec"]
        assert spec["serviceAccountName"] in names["ServiceAccount"]
        for kind, name in _named(spec):
            assert name in names[kind], f"{kind} {name}"
    labels = [template["metadata"]["labels"] for _, template in _pod_templates(objects)]
    for each in objects:
        if each["kind"] == "Service":
            selector = each["spec"]["selector"].items()
            assert sum(selector <= pod.items() for pod in labels) == 1, each["metadata"]["name"]
        if each["kind"] in {"RoleBinding", "ClusterRoleBinding"}:
            assert each["roleRef"]["name"] in names[each["roleRef"]["kind"]]
            for subject in each["subjects"]:
                assert subject["name"] in names["ServiceAccount"]
                assert subject["namespace"] == "sdpose"
    if "LocalQueue" in names:
        assert {"training"} == names["LocalQueue"]


def test_beside_kubeflow_itself_nothing_restricts_its_namespace(render: Objects) -> None:
    objects = render(SINGLE_USER)
    for each in objects:
        expected = None if each["kind"] in CLUSTER_WIDE else "kubeflow"
        assert each["metadata"].get("namespace") == expected
    kinds = {each["kind"] for each in objects}
    gone = {"Namespace", "ResourceQuota", "LimitRange"}
    assert kinds == {each["kind"] for each in render("base")} - gone
    assert "default" not in {
        each["metadata"]["name"] for each in objects if each["kind"] == "ServiceAccount"
    }
    policies = {each["metadata"]["name"]: each for each in objects if "Policy" in each["kind"]}
    assert set(policies) == {"mlflow", "postgres"}
    for name, policy in policies.items():
        assert policy["spec"]["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": name}}
        assert policy["spec"]["policyTypes"] == ["Ingress"]


def test_the_example_profile_is_made_for_the_base(repository: Path, render: Objects) -> None:
    cluster = load_cluster(repository / "k8s/cluster.yaml")
    names = {(each["kind"], each["metadata"]["name"]) for each in render("base")}
    names |= {(each["kind"], each["metadata"]["name"]) for each in render("secrets")}
    assert ("Namespace", cluster.namespace) in names
    for account in (cluster.service_account, cluster.pipelines.service_account):
        assert ("ServiceAccount", account) in names
    for volume in cluster.volumes:
        assert ("PersistentVolumeClaim", volume.claim) in names
    for secrets in cluster.all_secrets.values():
        # Each role has credentials of its own, and MLflow's and the database's are nobody else's.
        assert len({secret.name for secret in secrets}) == len(secrets) == 3
        for secret in secrets:
            assert ("Secret", secret.name) in names
            assert secret.name not in {"s3-mlflow", "mlflow-database"}
    # What makes the volumes ready mounts all of them, as the user that training is.
    [fetch] = [
        each["spec"]["template"]["spec"]
        for each in yaml.safe_load_all((repository / "k8s/fetch-coco.yaml").read_text())
        if each["kind"] == "Job"
    ]
    assert pod_security(cluster) == fetch["securityContext"]
    assert {claim for kind, claim in _named(fetch) if kind == "PersistentVolumeClaim"} == {
        volume.claim for volume in cluster.volumes
    }
    mlflow = next(each for each in render("base") if each["kind"] == "Deployment")
    [container] = mlflow["spec"]["template"]["spec"]["containers"]
    variables = {variable["name"]: variable.get("value") for variable in container["env"]}
    host = cluster.env["MLFLOW_TRACKING_URI"].removeprefix("http://")
    assert host in variables["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")


def _pod_templates(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    for each in objects:
        name = f"{each['kind']} {each['metadata']['name']}"
        if each["kind"] == "PyTorchJob":
            for replicas in each["spec"]["pytorchReplicaSpecs"].values():
                yield name, replicas["template"]
        elif each["kind"] == "TrainingRuntime":
            yield name, _pod_of_a_trainjob(each)
        elif "template" in each.get("spec", {}):
            yield name, each["spec"]["template"]


def _pod_of_a_trainjob(runtime: Object) -> Object:
    """What a pod of the example profile is, as Trainer makes it from the runtime."""
    cluster = load_cluster(REPOSITORY / "k8s/cluster.yaml", train_api="trainjob")
    experiment = load_experiment("sdpose_s_v1", **cluster.places("sdpose_s_v1"))
    job, _ = fit(build_job("job", experiment, cluster))
    [replicated] = make_jobset(_created(job), runtime, 29500)["spec"]["replicatedJobs"]
    template: Object = replicated["template"]["spec"]["template"]
    return template


def _created(job: Object) -> Object:
    return job | {"metadata": job["metadata"] | {"uid": "1"}}


def _named(spec: Object) -> Iterator[tuple[str, str]]:
    """The Secrets, ConfigMaps and claims that a pod needs before it can start."""
    for volume in spec.get("volumes", []):
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"]
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        for source in container.get("envFrom", []):
            for key, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
                if key in source:
                    yield kind, source[key]["name"]
        for variable in container.get("env", []):
            if secret := variable.get("valueFrom", {}).get("secretKeyRef"):
                yield "Secret", secret["name"]
