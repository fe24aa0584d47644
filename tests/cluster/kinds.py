"""What differs between a PyTorchJob and a TrainJob for a test of both."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.cluster.kube import KubeCluster
from tests.cluster.kube.store import Object


@dataclass(frozen=True)
class JobFacts:
    train_api: str
    group: str
    version: str
    plural: str
    name: str  # for people
    operator: str
    replicas: tuple[str, str]  # of two nodes, as the launcher names them
    pods: tuple[str, str]  # part of the names of their pods
    succeeded: str  # the condition
    deadline: str  # what the operator says when it is past

    def jobs(self, kube: KubeCluster) -> list[Object]:
        return kube.jobs(self.plural)

    def job(self, kube: KubeCluster) -> Object:
        """The only one."""
        (job,) = self.jobs(kube)
        return job

    def ever(self, kube: KubeCluster) -> int:
        """How many there have been."""
        return len(kube.store.created_of(self.plural))


PYTORCHJOB = JobFacts(
    train_api="pytorchjob",
    group="kubeflow.org",
    version="v1",
    plural="pytorchjobs",
    name="PyTorchJob",
    operator="the Training Operator",
    replicas=("master-0", "worker-0"),
    pods=("master-0", "worker-0"),
    succeeded="Succeeded",
    deadline="was active longer than specified deadline",
)
TRAINJOB = JobFacts(
    train_api="trainjob",
    group="trainer.kubeflow.org",
    version="v1alpha1",
    plural="trainjobs",
    name="TrainJob",
    operator="Kubeflow Trainer",
    replicas=("node-0", "node-1"),
    pods=("node-0-0-", "node-0-1-"),
    succeeded="Complete",
    deadline="exceeded its active deadline",
)
KINDS = (PYTORCHJOB, TRAINJOB)
# A test file's `pytestmark`: each of its tests is one of every kind.
EACH_KIND = pytest.mark.parametrize("job_kind", KINDS, ids=lambda facts: str(facts.train_api))
