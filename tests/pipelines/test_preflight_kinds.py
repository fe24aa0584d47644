"""The preflight's look at the kinds of job: which the cluster has, and a TrainJob's runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from servers.objects import ObjectServer

from components.profile import load_cluster
from pipelines.cluster.preflight.kube import Kube
from pipelines.cluster.preflight.objects import check_kinds, check_rights
from sdpose.checks.report import Report

CLUSTER = Path(__file__).with_name("cluster.yaml")
TRAINER = "/apis/trainer.kubeflow.org/v1alpha1"
OPERATOR = "/apis/kubeflow.org/v1"
RUNTIME = f"{TRAINER}/namespaces/pose/trainingruntimes/sdpose"

Check = Callable[..., Report]


@pytest.fixture
def check(
    object_server: ObjectServer,
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Check:
    """A cluster with both kinds and our runtime; keywords change the profile."""
    monkeypatch.setenv("KUBECONFIG", str(object_server.kubeconfig(tmp_path / "kubeconfig")))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    runtime = repository / "k8s/components/trainer/trainingruntime.yaml"
    object_server.objects = {
        TRAINER: {"resources": [{"name": "trainjobs"}, {"name": "trainingruntimes"}]},
        OPERATOR: {"resources": [{"name": "pytorchjobs"}]},
        RUNTIME: yaml.safe_load(runtime.read_text(encoding="utf-8")),
    }

    def run(**changes: Any) -> Report:
        cluster = load_cluster(CLUSTER, **changes)
        report = Report("preflight")
        check_rights(Kube(), cluster, report, in_cluster=False)
        check_kinds(Kube(), cluster, report)
        return report

    return run


def test_a_trainjob_with_our_runtime_is_fine(check: Check) -> None:
    report = check(train_api="trainjob")
    assert (report.problems, report.unknown) == ([], [])
    assert report.fine == [
        "service account sdpose-pipeline has all 12 rights of the launcher",
        "trainjobs.trainer.kubeflow.org/v1alpha1 are known",
        "TrainingRuntime sdpose is there",
    ]


@pytest.mark.parametrize(
    ("missing", "taken", "rights"), [("", "TrainJob", 18), (TRAINER, "PyTorchJob", 11)]
)
def test_auto_takes_what_there_is(
    missing: str, taken: str, rights: int, check: Check, object_server: ObjectServer
) -> None:
    object_server.objects.pop(missing, None)
    report = check(train_api="auto")
    assert report.problems == []
    assert any(f"train_api auto takes {taken}" in line for line in report.fine)
    assert f"has all {rights} rights" in report.fine[0]


def test_a_cluster_without_either_is_a_problem(check: Check, object_server: ObjectServer) -> None:
    del object_server.objects[TRAINER], object_server.objects[OPERATOR]
    [problem] = check(train_api="auto", runtime_kind="ClusterTrainingRuntime").problems[:1]
    assert problem.what.endswith("v1alpha1 and no pytorchjobs.kubeflow.org/v1")
    assert problem.remedy == "install Kubeflow Trainer or the Training Operator"


def test_a_missing_runtime_is_a_problem_with_its_remedy(
    check: Check, object_server: ObjectServer
) -> None:
    del object_server.objects[RUNTIME]
    [problem] = check(train_api="trainjob").problems
    assert problem.what == "there is no TrainingRuntime sdpose"
    assert "k8s/components/trainer" in problem.remedy


def test_what_the_runtime_says_otherwise_is_reported(
    check: Check, object_server: ObjectServer
) -> None:
    spec = object_server.objects[RUNTIME]["spec"]["template"]["spec"]
    spec["ttlSecondsAfterFinished"] = 60
    report = check(train_api="trainjob", priority_class="high")
    [problem] = [each for each in report.problems if "in the runtime" in each.what]
    assert problem.what.startswith("priority_class is high in the profile and not set in the")
    [line] = [line for line in report.fine if line.startswith("TrainingRuntime")]
    assert "an ended job's pods are kept 60 s, as the runtime says, not 259200 s" in line


def test_what_we_may_not_see_is_unknown(check: Check, object_server: ObjectServer) -> None:
    object_server.unreadable = (TRAINER,)
    report = check(train_api="auto")
    assert report.problems == []
    [kinds] = [text for text in report.unknown if text.startswith("which kinds of job")]
    assert f"cannot look at {TRAINER}" in kinds
