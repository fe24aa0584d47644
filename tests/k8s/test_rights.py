"""The roles of k8s/base grant what the preflight and submit.py ask of Kubernetes, and no more.

(The launcher's: tests/cluster/test_rbac.py.)
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import kubernetes_validate
import pytest
import yaml
from servers.objects import ObjectServer

from components.profile import Cluster, dump_cluster, load_cluster
from pipelines.cluster.preflight import check_from_here, check_in_cluster
from pipelines.kfp_client.endpoint import Endpoint
from pipelines.kfp_client.errors import PROXY_GRANTS
from pipelines.kfp_client.runs import cancel
from sdpose.config import dump_experiment, load_experiment
from tests.roles import Right, granted

KFP_PROXY = "sdpose-kfp-proxy"  # KFP's own namespace has it
# Every account may ask for its own rights and for the kinds that there are (system:basic-user,
# system:discovery).
EVERYBODYS = ("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",)


@pytest.fixture
def profiles(repository: Path, tmp_path: Path) -> list[Cluster]:
    """The example, with all that the preflight looks for."""

    example = load_cluster(repository / "k8s/cluster.yaml").pipelines
    steps = example.model_dump(include={"service_account", "data_secrets", "registry_secrets"})

    def profile(**changes: object) -> Cluster:
        return load_cluster(
            repository / "k8s/cluster.yaml",
            image="127.0.0.1:1/trainer:1",
            volumes=[
                {"claim": "datasets", "path": str(tmp_path / "data")},
                {"claim": "work-dirs", "path": str(tmp_path / "results")},
            ],
            data_root=str(tmp_path / "data"),
            work_dirs=str(tmp_path / "results"),
            pipelines=steps,
            queue="training",
            **changes,
        )

    return [
        profile(priority_class="high"),
        profile(train_api="trainjob"),
        profile(train_api="trainjob", runtime_kind="ClusterTrainingRuntime"),
        profile(train_api="auto"),
    ]


@pytest.fixture
def kubernetes(
    object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> ObjectServer:
    """Has nothing, so that all is looked for."""
    monkeypatch.setenv("KUBECONFIG", str(object_server.kubeconfig(tmp_path / "kubeconfig")))
    for name in ("SDPOSE_REGISTRY", "MLFLOW_TRACKING_URI", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return object_server


def test_the_first_step(
    repository: Path, kubernetes: ObjectServer, profiles: list[Cluster]
) -> None:
    for cluster in profiles:
        check_in_cluster(load_experiment("sdpose_t", **cluster.places("t")), cluster, "")
    steps = granted(repository, "sdpose-preflight")
    assert set(_rights(kubernetes)) == steps | granted(
        repository, "sdpose-preflight", "ClusterRole"
    )


def test_check_and_cancel(
    repository: Path, kubernetes: ObjectServer, profiles: list[Cluster], tmp_path: Path
) -> None:
    """So nobody who is bound as the guide says reads "unknown ... forbidden"."""
    kubernetes.objects["/api/v1/namespaces/sdpose"] = {}
    for cluster in profiles:
        check_from_here(cluster)
    experiment = dump_experiment(load_experiment("sdpose_t"))
    for cluster in profiles:
        parameters = {"experiment": experiment, "cluster_profile": dump_cluster(cluster)}
        config = {"parameters": parameters}
        run = {"run_id": "1", "state": "FAILED", "runtime_config": config}
        endpoint = Endpoint("http://kfp.test", "the test")
        kfp = SimpleNamespace(run=lambda _id, run=run: run, endpoint=endpoint)
        cancel(kfp, "1")
    assert set(_rights(kubernetes)) == _rights_of_the_team(repository, tmp_path)


def _rights_of_the_team(repository: Path, folder: Path) -> set[Right]:
    """What the commands of docs/cluster.md bind to people, of the roles in k8s/base."""
    guide = (repository / "docs/cluster.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", guide, re.DOTALL)
    commands = "\n".join(block for block in blocks if "YOUR-TEAM" in block)
    kubectl = folder / "bin/kubectl"
    kubectl.parent.mkdir()
    kubectl.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {folder}/kubectl.log\n')
    kubectl.chmod(0o755)
    path = f"{kubectl.parent}:{os.environ['PATH']}"
    subprocess.run(
        ["bash", "-euc", commands], env={"PATH": path}, cwd=repository, check=True, timeout=240
    )
    rights: set[Right] = set()
    for line in (folder / "kubectl.log").read_text().splitlines():
        kinds = {"--role": "Role", "--clusterrole": "ClusterRole"}
        for option, name in re.findall(r"(--role|--clusterrole) (\S+)", line):
            assert "--group YOUR-TEAM" in line
            if name != KFP_PROXY:
                assert ("-n sdpose" in line) == (kinds[option] == "Role"), line
                rights |= granted(repository, name, kinds[option])
    return rights


def test_the_proxys_role_is_the_one_that_the_guide_binds(repository: Path) -> None:
    """What it grants is used by tests/pipelines/test_connection.py."""
    role = yaml.safe_load((repository / "k8s/kfp-proxy.yaml").read_text(encoding="utf-8"))
    assert (role["kind"], role["metadata"]) == (
        "Role",
        {"name": KFP_PROXY, "namespace": "kubeflow"},
    )
    for version in ("1.30", "1.36"):
        kubernetes_validate.validate(role, version, strict=True)
    guide = " ".join(
        (repository / "docs/cluster.md").read_text(encoding="utf-8").replace("\\\n", " ").split()
    )
    for command in PROXY_GRANTS:  # the message for a user who lacks the right
        assert command in guide


def _rights(server: ObjectServer) -> Iterator[Right]:
    """What the calls need."""
    for method, path in server.calls:
        group, _, rest = path.removeprefix("/api/v1").removeprefix("/apis/").partition("/")
        rest = rest.partition("/")[2] if group else rest
        parts = rest.split("/")
        if path in EVERYBODYS or not rest:
            continue
        if parts[0] == "namespaces" and len(parts) > 2:
            parts = parts[2:]
        resource, name = (*parts, "")[:2]
        verb = {"POST": "create", "DELETE": "delete", "GET": "get" if name else "list"}[method]
        yield group, f"secrets {name}" if resource == "secrets" else resource, verb
