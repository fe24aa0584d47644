"""`train_api: auto`: whichever kind the cluster has, and never two jobs of one run."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdpose.errors import UserError
from tests.cluster.conftest import Launch
from tests.cluster.kinds import PYTORCHJOB, TRAINJOB, JobFacts
from tests.cluster.kube import KubeCluster

TRAINER_KINDS = {"trainjobs", "trainingruntimes", "clustertrainingruntimes"}


@pytest.fixture
def job_kind() -> JobFacts:
    """The profile says auto, whatever the facts are."""
    return TRAINJOB


@pytest.mark.parametrize(
    ("unknown", "taken"),
    [
        (set(), TRAINJOB),
        ({"pytorchjobs"}, TRAINJOB),
        (TRAINER_KINDS, PYTORCHJOB),
    ],
    ids=["both", "trainer", "operator"],
)
def test_what_the_cluster_has_is_taken(
    unknown: set[str], taken: JobFacts, launch: Launch, results: Path, kube: KubeCluster
) -> None:
    kube.unknown = unknown
    said = launch(train_api="auto")
    assert said[0] == f"train_api auto: {taken.name}, because this cluster has {taken.operator}"
    assert f"{taken.name} pose/" in said[1]
    assert taken.ever(kube) == 1


def test_a_cluster_without_either_is_named(
    launch: Launch, results: Path, kube: KubeCluster
) -> None:
    kube.unknown = TRAINER_KINDS | {"pytorchjobs"}
    with pytest.raises(UserError) as refused:
        launch(train_api="auto")
    assert str(refused.value) == (
        "this cluster knows no trainjobs.trainer.kubeflow.org/v1alpha1 and no "
        "pytorchjobs.kubeflow.org/v1: install Kubeflow Trainer or the Training Operator"
    )


@pytest.mark.parametrize("kind", ["pytorchjobs", "trainjobs"])
def test_a_cluster_without_the_chosen_kind_is_named(
    kind: str, launch: Launch, results: Path, kube: KubeCluster
) -> None:
    kube.unknown = {kind}
    with pytest.raises(UserError, match=f"this cluster knows no {kind}: install"):
        launch(train_api=kind.removesuffix("s"))


def test_a_run_keeps_its_job_when_the_cluster_gets_another_kind(
    launch: Launch, results: Path, kube: KubeCluster
) -> None:
    kube.unknown = TRAINER_KINDS
    launch(train_api="auto")
    kube.unknown = set()
    said = launch(train_api="auto")
    assert said[0] == "train_api auto: PyTorchJob, because this run has one"
    assert "found, it is watched again" in said[1]
    assert (PYTORCHJOB.ever(kube), TRAINJOB.ever(kube)) == (1, 0)
    # Another run takes what is preferred.
    launch("run-2", train_api="auto")
    assert TRAINJOB.ever(kube) == 1
