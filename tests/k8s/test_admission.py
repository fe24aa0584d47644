"""What the launcher's jobs may mount: the policy's own expressions, evaluated on the jobs that the
launcher makes and on those that somebody who took its account would make."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from admission_policy import Object, Policy

from components.launcher import build_job
from components.launcher.compatibility import fit
from components.profile import load_cluster
from sdpose.config import load_experiment

LAUNCHER = "system:serviceaccount:sdpose:sdpose-pipeline"
KINDS = ["pytorchjob", "trainjob"]
# Of the launcher's role: kinds of jobs with pods in them, which it may create or change.
WRITES = {"create", "patch", "update"}


@pytest.fixture(scope="module")
def policy(repository: Path) -> Policy:
    text = (repository / "k8s/components/admission/policy.yaml").read_text(encoding="utf-8")
    [found] = [
        each for each in yaml.safe_load_all(text) if each["kind"] == "ValidatingAdmissionPolicy"
    ]
    return Policy(found)


@pytest.fixture(scope="module")
def allowed(repository: Path) -> Object:
    loaded = yaml.safe_load((repository / "k8s/base/launcher-allows.yaml").read_text())
    assert loaded["metadata"]["name"] == "sdpose-launcher"
    return loaded


@pytest.fixture
def job(repository: Path, train_api: str) -> Object:
    """Of the example profile, with data on S3, as it reaches the API server."""
    cluster = load_cluster(
        repository / "k8s/cluster.yaml", train_api=train_api, data_root="s3://sdpose/datasets/coco"
    )
    experiment = load_experiment("sdpose_s_v1", **cluster.places("sdpose_s_v1"))
    made, _ = fit(build_job("job", experiment, cluster))
    return copy.deepcopy(made)


def by(username: str, namespace: str = "sdpose") -> Object:
    return {"userInfo": {"username": username}, "namespace": namespace}


def pod(job: Object) -> Object:
    """The spec of one pod; of a TrainJob what it patches."""
    if job["kind"] == "PyTorchJob":
        found: Object = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
        return found
    [patch] = job["spec"]["runtimePatches"]
    [replicated] = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    template: Object = replicated["template"]["spec"]["template"]["spec"]
    return template


def variables(job: Object) -> list[Object]:
    found: list[Object] = (
        pod(job)["containers"][0] if job["kind"] == "PyTorchJob" else job["spec"]["trainer"]
    )["env"]
    return found


@pytest.mark.parametrize("train_api", KINDS)
def test_the_launchers_job_is_allowed(policy: Policy, allowed: Object, job: Object) -> None:
    assert policy.refusals(job, by(LAUNCHER), allowed) == []


def secret(name: str) -> Object:
    return {"name": "X", "valueFrom": {"secretKeyRef": {"name": name, "key": "password"}}}


TAKEN: dict[str, tuple[Callable[[Object], Any], str]] = {
    "another account": (
        lambda job: pod(job).update(serviceAccountName="mlflow"),
        "service account is not allowed",
    ),
    "the alias": (lambda job: pod(job).update(serviceAccount="mlflow"), "service account"),
    "a token": (
        lambda job: pod(job).update(automountServiceAccountToken=True),
        "gets no token",
    ),
    "the database's secret, as a variable": (
        lambda job: variables(job).append(secret("mlflow-database")),
        "Secret that the job names is not allowed",
    ),
    "the registry's keys": (
        lambda job: variables(job).append(secret("s3-registry")),
        "Secret that the job names",
    ),
    "all keys of a secret": (
        lambda job: pod(job)["containers"][0].update(
            envFrom=[{"secretRef": {"name": "mlflow-database"}}]
        ),
        "Secret that the job names",
    ),
    "in an init container": (
        lambda job: pod(job).update(
            initContainers=[{"name": "x", "image": "x", "env": [secret("mlflow-database")]}]
        ),
        "Secret that the job names",
    ),
    "in a second container": (
        lambda job: pod(job)["containers"].append({"name": "x", "env": [secret("s3-admin")]}),
        "Secret that the job names",
    ),
    "the database's volume": (
        lambda job: pod(job)["volumes"].append(
            {"name": "x", "persistentVolumeClaim": {"claimName": "data-postgres-0"}}
        ),
        "volume of the job is not allowed",
    ),
    **{
        f"a volume: {next(iter(source))}": (
            lambda job, source=source: pod(job)["volumes"].append({"name": "x", **source}),
            "volume of the job is not allowed",
        )
        for source in (
            {"secret": {"secretName": "mlflow-database"}},
            {"projected": {"sources": [{"secret": {"name": "mlflow-database"}}]}},
            {"hostPath": {"path": "/"}},
            {"csi": {"driver": "secrets-store.csi.k8s.io"}},
            {"ephemeral": {"volumeClaimTemplate": {}}},
            {"configMap": {"name": "x"}},
        )
    },
    "the node's network": (lambda job: pod(job).update(hostNetwork=True), "never does"),
    "ephemeral containers": (lambda job: pod(job).update(ephemeralContainers=[]), "never does"),
}


@pytest.mark.parametrize("train_api", KINDS)
@pytest.mark.parametrize("what", TAKEN)
def test_what_the_launcher_never_mounts_is_refused(
    policy: Policy, allowed: Object, job: Object, what: str
) -> None:
    change, message = TAKEN[what]
    change(job)
    [refusal] = policy.refusals(job, by(LAUNCHER), allowed)
    assert message in refusal
    # Of others the policy says nothing: their rights are the cluster's own affair.
    assert policy.refusals(job, by("kim"), allowed) == []
    assert policy.refusals(job, by(LAUNCHER, namespace="other-team"), allowed) == []


@pytest.mark.parametrize("train_api", ["pytorchjob"])
@pytest.mark.parametrize("key", ["serviceAccountName", "automountServiceAccountToken"])
def test_a_pod_that_says_nothing_would_get_the_default(
    policy: Policy, allowed: Object, job: Object, key: str
) -> None:
    del pod(job)[key]
    assert len(policy.refusals(job, by(LAUNCHER), allowed)) == 1


@pytest.mark.parametrize("train_api", ["trainjob"])
def test_patches_of_others_and_initializers(policy: Policy, allowed: Object, job: Object) -> None:
    """Kueue adds a patch to a TrainJob, which the launcher then annotates."""
    patches = job["spec"]["runtimePatches"]
    patches.append({"manager": "kueue.x-k8s.io/manager"})
    assert policy.refusals(job, by(LAUNCHER), allowed) == []
    second = copy.deepcopy(patches[0])
    template = second["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"][0]
    template["template"]["spec"]["template"]["spec"]["serviceAccountName"] = "mlflow"
    patches.append(second)
    assert len(policy.refusals(job, by(LAUNCHER), allowed)) == 1
    patches.pop()
    job["spec"]["initializer"] = {"dataset": {"secretRef": {"name": "mlflow-database"}}}
    assert len(policy.refusals(job, by(LAUNCHER), allowed)) == 1


@pytest.mark.parametrize("train_api", KINDS)
def test_a_team_allows_its_own(policy: Policy, allowed: Object, job: Object) -> None:
    variables(job).append(secret("wandb"))
    pod(job)["volumes"].append({"name": "x", "persistentVolumeClaim": {"claimName": "scans"}})
    assert len(policy.refusals(job, by(LAUNCHER), allowed)) == 2
    more = allowed | {"data": allowed["data"] | {"secret.wandb": "", "claim.scans": ""}}
    assert policy.refusals(job, by(LAUNCHER), more) == []
    # An empty ConfigMap allows nothing.
    assert policy.refusals(job, by(LAUNCHER), {"metadata": allowed["metadata"]})


def test_every_kind_that_the_launcher_creates_is_covered(policy: Policy, repository: Path) -> None:
    roles = yaml.safe_load_all((repository / "k8s/base/rbac.yaml").read_text(encoding="utf-8"))
    [launcher] = [
        each
        for each in roles
        if each["kind"] == "Role" and each["metadata"]["name"] == "sdpose-launcher"
    ]
    written = {
        (group, resource)
        for rule in launcher["rules"]
        if WRITES & set(rule["verbs"])
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    covered = {
        (group, resource)
        for rule in policy.rules()
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert written == covered
    assert all(set(rule["operations"]) == {"CREATE", "UPDATE"} for rule in policy.rules())


def test_the_example_profile_is_allowed(repository: Path, allowed: Object) -> None:
    cluster = load_cluster(repository / "k8s/cluster.yaml")
    names = {f"service-account.{cluster.service_account}"}
    names |= {f"secret.{secret.name}" for secret in cluster.secrets.values()}
    names |= {f"claim.{volume.claim}" for volume in cluster.volumes}
    assert names == set(allowed["data"])
