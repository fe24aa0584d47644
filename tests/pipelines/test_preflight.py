"""The preflight, as `submit.py --check` and as the run's first step: what is missing, all of it."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from servers.kfp import KfpServer
from servers.mlflow import MlflowServer
from servers.objects import ImageServer, ObjectServer

from components.profile import Cluster, load_cluster
from pipelines.cluster.preflight import check_in_cluster
from pipelines.cluster.preflight.images import (
    NoSuchImageError,
    Reference,
    UnknownImageError,
    image_digest,
)
from sdpose.code_version import source_version
from sdpose.config import load_experiment
from sdpose.errors import UserError

CLUSTER = Path(__file__).with_name("cluster.yaml")
DIGEST = "sha256:" + "ab" * 32
PVC = "/api/v1/namespaces/pose/persistentvolumeclaims/"


def node(**changes: Any) -> dict[str, Any]:
    return {
        "metadata": {"labels": {"gpu": "h100"}},
        "spec": {"taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]},
        "status": {"allocatable": {"nvidia.com/gpu": "4"}},
    } | changes


def fill(server: ObjectServer, image: ImageServer) -> None:
    """All that tests/pipelines/cluster.yaml needs."""
    login = {"auths": {image.host: {"username": "ada", "password": "secret"}}}
    registry = base64.b64encode(json.dumps(login).encode()).decode()
    claim = {"status": {"phase": "Bound", "accessModes": ["ReadWriteMany"]}}
    account = "/api/v1/namespaces/pose/serviceaccounts/"
    secret = "/api/v1/namespaces/pose/secrets/"
    server.objects = {
        "/api/v1/namespaces/pose": {"status": {"phase": "Active"}},
        "/apis/kubeflow.org/v1": {"resources": [{"name": "pytorchjobs"}]},
        f"{account}sdpose-trainer": {},
        f"{account}sdpose-pipeline": {},
        f"{PVC}coco": claim,
        f"{PVC}results": claim,
        f"{secret}s3": {"data": {"secret": "eA=="}},
        f"{secret}registry": {"data": {".dockerconfigjson": registry}},
        "/api/v1/nodes": {"items": [node(), node(), node(metadata={})]},
        "/api/v1/namespaces/pose/resourcequotas": {
            "items": [
                {
                    "metadata": {"name": "gpus"},
                    "status": {
                        "hard": {"requests.nvidia.com/gpu": "16"},
                        "used": {"requests.nvidia.com/gpu": "8"},
                    },
                }
            ]
        },
    }
    image.digests["/v2/pose/trainer/manifests/1.0"] = DIGEST


@pytest.fixture
def check(submit, object_server, image_server, kfp_server: KfpServer, tmp_path: Path):
    """`submit.py --check` with an image of the test registry."""
    fill(object_server, image_server)
    kfp_server.multi_user = True
    profile = yaml.safe_load(CLUSTER.read_text())
    del profile["pipelines"]["image"]  # its registry does not exist
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(profile))
    command = ("--exp", "sdpose_t", "--cluster", "cluster.yaml", "--endpoint", kfp_server.url)

    def run(*options: str) -> tuple[int, str, str]:
        process: subprocess.Popen[str] = submit(
            *(*command, "--check", "--image", f"{image_server.host}/pose/trainer:1.0", *options),
            cwd=tmp_path,
            KUBECONFIG=str(object_server.kubeconfig(tmp_path / "kubeconfig")),
            HOME=str(tmp_path),
        )
        stdout, stderr = process.communicate(timeout=240)
        assert "Traceback" not in stdout + stderr
        return process.returncode, stdout, stderr

    return run


def test_all_is_there(check, object_server: ObjectServer, image_server: ImageServer) -> None:
    code, stdout, stderr = check()
    assert (code, stderr) == (0, "")
    assert "preflight: nothing is missing" in stdout
    for line in (
        "service account sdpose-pipeline has all 11 rights of the launcher",
        "3 nodes have places for 2 pods with nvidia.com/gpu=4",
        "quotas leave room for the training",
        f"image {image_server.host}/pose/trainer:1.0 can be pulled (sha256:abababababab",
    ):
        assert line in stdout
    asked = object_server.asked_for[0]
    assert asked["spec"]["user"] == "system:serviceaccount:pose:sdpose-pipeline"


def test_every_problem_is_told_with_its_remedy(
    check, object_server: ObjectServer, image_server: ImageServer
) -> None:
    objects = object_server.objects
    object_server.denied = {("pytorchjobs", "create"), ("pods/log", "get")}
    del objects["/apis/kubeflow.org/v1"]
    del objects["/api/v1/namespaces/pose/serviceaccounts/sdpose-trainer"]
    del objects[f"{PVC}coco"]
    objects[f"{PVC}results"] = {"status": {"phase": "Bound", "accessModes": ["ReadWriteOnce"]}}
    objects["/api/v1/namespaces/pose/secrets/s3"] = {"data": {"key": ""}}
    tainted = {"taints": [{"key": "team", "value": "nlp", "effect": "NoExecute"}]}
    objects["/api/v1/nodes"] = {"items": [node(spec=tainted), node(status={})]}
    quota = objects["/api/v1/namespaces/pose/resourcequotas"]["items"][0]["status"]
    quota["used"] = {"requests.nvidia.com/gpu": "9"}
    image_server.digests.clear()
    code, _, stderr = check("--set", "seed=1")
    assert code == 2
    assert "error: preflight: 9 problems\n" in stderr
    for what in (
        "sdpose-pipeline may not: create pytorchjobs (kubeflow.org), get pods/log; in namespace",
        "this cluster knows no pytorchjobs.kubeflow.org/v1\n      -> install the Training Operator",
        "there is no service account sdpose-trainer",
        "there is no volume claim coco",
        "volume claim results is ReadWriteOnce: 2 nodes cannot mount it at once",
        "secret s3 has no key secret\n      -> it has: key",
        "1: taint team=nlp:NoExecute is not tolerated; 1: nvidia.com/gpu 0, wanted 4",
        "quota gpus leaves 7 of requests.nvidia.com/gpu (16, used 9); the training needs 8",
        "pose/trainer:1.0: " + image_server.host + " has no such image",
    ):
        assert what in stderr


def test_a_namespace_that_is_missing_is_one_problem(check, object_server: ObjectServer) -> None:
    code, _, stderr = check("--namespace", "nons")
    assert code == 2
    assert "error: preflight: 1 problem\n" in stderr
    assert "problem  there is no namespace nons; what must be in it was not looked for" in stderr
    assert "quotas" not in stderr
    assert "3 nodes have places" in stderr  # which are no namespace's
    asked = [path for _, path in object_server.calls if "/namespaces/nons" in path]
    assert asked == ["/api/v1/namespaces/nons"]
    object_server.objects["/api/v1/namespaces/pose"] = {"status": {"phase": "Terminating"}}
    code, _, stderr = check()
    assert (code, "problem  namespace pose is being deleted" in stderr) == (2, True)


def test_the_figures_are_for_people(check, object_server: ObjectServer, tmp_path: Path) -> None:
    profile = yaml.safe_load((tmp_path / "cluster.yaml").read_text())
    profile |= {"service_account": "sdpose-pipeline", "nodes": 1}
    profile["resources"] = {"requests": {"memory": "24Gi", "cpu": "1500m"}}
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(profile))
    allocatable = {"memory": "25066786816", "cpu": "8", "nvidia.com/gpu": "4"}
    object_server.objects["/api/v1/nodes"] = {"items": [node(status={"allocatable": allocatable})]}
    hard, used = {"requests.memory": "32Gi"}, {"requests.memory": str(10 * 2**30)}
    object_server.objects["/api/v1/namespaces/pose/resourcequotas"] = {
        "items": [{"metadata": {"name": "team"}, "status": {"hard": hard, "used": used}}]
    }
    code, _, stderr = check()
    assert code == 2
    wanted = "nvidia.com/gpu=4, cpu=1.5, memory=24Gi; 1 is wanted"
    assert f"1 node has places for 0 pods with {wanted}" in stderr
    assert "(nodes without: 1: memory 23.3Gi, wanted 24Gi)" in stderr
    left = "quota team leaves 22Gi of requests.memory (32Gi, used 10Gi); the training needs 24Gi"
    assert left in stderr
    assert stderr.count("service account sdpose-pipeline is there") == 1


@pytest.mark.parametrize("kfp_version", ["2.15.0"])
def test_what_an_old_kfp_leaves_out_is_said(check) -> None:
    code, stdout, _ = check()
    assert code == 0
    assert "ok       Kubeflow Pipelines 2.15.0 answers at http://127.0.0.1:" in stdout
    assert "unknown  Kubeflow Pipelines 2.15.0 ignores `security` of the profile" in stdout


def test_what_we_may_not_see_is_no_problem(check, object_server: ObjectServer) -> None:
    object_server.unreadable = ("secrets", "nodes", "resourcequotas", "localsubjectaccessreviews")
    object_server.unreadable += ("/apis/kubeflow.org", "/api/v1/namespaces/pose")
    code, stdout, _ = check()
    assert code == 0
    assert "unknown  namespace pose: cannot look at /api/v1/namespaces/pose" in stdout
    assert "cannot look at /apis/kubeflow.org/v1" in stdout
    assert "unknown  rights of service account sdpose-pipeline: cannot create access" in stdout
    assert "unknown  secret s3: cannot look at" in stdout
    assert "asks for credentials, and there are none here" in stdout


def test_first_step_looks_at_stores_tracking_and_code(
    object_server: ObjectServer,
    image_server: ImageServer,
    mlflow_server: MlflowServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    fill(object_server, image_server)
    monkeypatch.setenv("KUBECONFIG", str(object_server.kubeconfig(tmp_path / "kubeconfig")))
    document = load_cluster(CLUSTER).model_dump(mode="json") | {
        "image": f"{image_server.host}/pose/trainer:1.0",
        "pipelines": {"service_account": "sdpose-pipeline"},
        "volumes": [{"claim": "results", "path": str(tmp_path)}],
        "data_root": str(tmp_path / "coco"),
        "work_dirs": str(tmp_path / "work_dirs"),
    }
    cluster = Cluster.model_validate(document)
    experiment = load_experiment("sdpose_t", **cluster.places("sdpose_t"))

    monkeypatch.setenv("SDPOSE_REGISTRY", str(tmp_path / "registry"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    report = check_in_cluster(experiment, cluster, source_version())
    text = report.raise_if_problems()
    assert f"the model registry {tmp_path}/registry can be read and written" in text
    assert f"MLflow {mlflow_server.uri} can be written" in text
    assert {p.name for p in (tmp_path / "registry/preflight").iterdir()} <= {".lock"}
    assert object_server.asked_for[0]["kind"] == "SelfSubjectAccessReview"

    monkeypatch.setenv("SDPOSE_REGISTRY", "work_dirs/registry")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    with pytest.raises(UserError) as caught:
        check_in_cluster(experiment, cluster, "0" * 64).raise_if_problems()
    for what in (
        "3 problems",
        "is not the code that was submitted from (000000000000)",
        "the model registry work_dirs/registry is in the pods themselves",
        "MLflow at http://127.0.0.1:1",
    ):
        assert what in str(caught.value)


def test_a_tag_is_pinned_to_what_it_names_today(
    submit, image_server: ImageServer, kfp_server: KfpServer, tmp_path: Path
) -> None:
    image_server.digests["/v2/pose/trainer/manifests/1.0"] = DIGEST
    (tmp_path / ".docker").mkdir()
    login = {"auths": {image_server.host: {"auth": image_server.login}}}
    (tmp_path / ".docker/config.json").write_text(json.dumps(login))
    image = f"{image_server.host}/pose/trainer:1.0"
    command = ("--exp", "sdpose_t", "--cluster", CLUSTER, "--endpoint", kfp_server.url)
    for home, cached in ((tmp_path, True), (tmp_path / "nobody", False)):
        process = submit(*command, "--image", image, cwd=tmp_path, HOME=str(home))
        stdout, _ = process.communicate(timeout=240)
        assert process.returncode == 0
        assert (f"image {image} is {DIGEST} today" in stdout) == cached
        assert ("no step is cached" in stdout) != cached
        pipeline = kfp_server.of("versions")[-1]["pipeline_spec"]["pipeline_spec"]
        options = pipeline["root"]["dag"]["tasks"]["evaluate"]["cachingOptions"]
        assert bool(options.get("enableCache")) == cached
        profile = kfp_server.of("runs")[-1]["runtime_config"]["parameters"]["cluster_profile"]
        assert json.loads(profile)["image"] == (f"{image}@{DIGEST}" if cached else image)


def test_image_names_and_registries(image_server: ImageServer) -> None:
    assert Reference.parse("python:3.12").repository == "library/python"
    assert Reference.parse("a.b:5000/c/d@sha256:1") == Reference(
        "a.b:5000", "c/d", "latest", "sha256:1"
    )
    image_server.digests["/v2/pose/trainer/manifests/1.0"] = DIGEST
    image = f"{image_server.host}/pose/trainer"
    assert image_digest(f"{image}:1.0", {image_server.host: image_server.login}) == DIGEST
    with pytest.raises(NoSuchImageError, match="no such image"):
        image_digest(f"{image}:2.0", {image_server.host: image_server.login})
    with pytest.raises(NoSuchImageError, match="refuses these credentials"):
        image_digest(f"{image}:1.0", {image_server.host: "d3Jvbmc="})
    with pytest.raises(UnknownImageError, match="there are none here"):
        image_digest(f"{image}:1.0", {})
    with pytest.raises(UnknownImageError, match="cannot be asked"):
        image_digest("127.0.0.1:1/x", {})
