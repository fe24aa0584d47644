"""The Role of the launcher grants what the launcher calls, and no more.

It is run through everything that makes it call: its own pod is looked up, pods start, train, are
replaced, do not start, wait in a queue, and the job is removed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from components.launcher import supervise
from components.launcher.failure import JobError
from components.launcher.termination import ANNOTATION
from components.profile import Cluster, parse_cluster
from pipelines.cluster.preflight.objects import rights
from tests.cluster.conftest import Launch, Meanwhile, run_in_a_workflow, until
from tests.cluster.kube import KubeCluster
from tests.roles import Right, granted


@pytest.fixture(scope="module")
def role(repository: Path) -> set[Right]:
    return granted(repository, "sdpose-launcher")


def test_the_launcher_needs_the_whole_role_and_nothing_else(
    kube: KubeCluster,
    results: Path,
    launch: Launch,
    meanwhile: Meanwhile,
    profile: Cluster,
    role: set[Right],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervise, "PATIENCE_S", 0.5)
    run_in_a_workflow(kube, monkeypatch)
    for api in ("pytorchjob", "trainjob"):
        (results / "exit-1").write_text("143")  # a preemption, which is noted on the job
        (results / "hold").touch()

        def let_go(plural: str = f"{api}s") -> None:
            until(
                lambda: any(ANNOTATION in j["metadata"]["annotations"] for j in kube.jobs(plural))
            )
            (results / "hold").unlink()

        meanwhile(let_go)
        assert "it ends with Workflow w" in launch(api, train_api=api)[0]
        kube.unschedulable = lambda _pod: "0/1 nodes are available"  # the job is removed
        with pytest.raises(JobError, match="0/1 nodes"):
            launch(f"{api}-pending", train_api=api, pending_timeout_seconds=1)
        kube.unschedulable = lambda _pod: None
    kube.quota = lambda _name: "exceeded quota"  # events say why there are no pods
    with pytest.raises(JobError, match="exceeded quota"):
        launch("quota", pending_timeout_seconds=1)

    kube.install_kueue("pytorchjobs").set_quota("no quota")  # it is asked why

    def delete() -> None:
        until(lambda: any(call.resource == "workloads" for call in kube.calls))
        [name] = [
            job["metadata"]["name"]
            for job in kube.jobs()
            if job["spec"]["runPolicy"].get("suspend")
        ]
        kube.delete("pytorchjobs", name)

    meanwhile(delete)
    with pytest.raises(JobError, match="deleted"):
        launch("queued", queue="gpus")
    # Discovery and OpenAPI are every account's to read.
    calls = [call for call in kube.calls if not call.resource.startswith("/")]
    assert {(call.group, call.resource, call.verb) for call in calls} == role
    assert {call.namespace for call in calls} == {profile.namespace}


def test_the_preflight_looks_for_the_whole_role(profile: Cluster, role: set[Right]) -> None:
    wanted: set[Right] = set()
    for api in ("pytorchjob", "trainjob"):
        cluster = parse_cluster(profile.model_dump_json(), train_api=api, queue="training")
        wanted |= set(rights(cluster))
    assert wanted == role
