"""The output of pods, with what the kubelet itself writes into it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cluster.conftest import Launch, Meanwhile, running, until
from tests.cluster.kube import KubeCluster
from tests.cluster.kube.server import Fault

# As a kubelet 1.36 writes them when a pod is deleted.
KUBELETS = (
    "unable to retrieve container logs for containerd://3f0c1a9d",
    'failed to try resolving symlinks in path "/var/log/pods/pose_job-master-0_1/pytorch/0.log": '
    "lstat /var/log/pods/pose_job-master-0_1/pytorch/0.log: no such file or directory",
    "",
    "2026-11-25 is no stamp",
)


@pytest.mark.parametrize(
    ("train_api", "first"), [("pytorchjob", "master-0"), ("trainjob", "node-0")]
)
def test_lines_without_a_stamp_are_whole_and_change_nothing(
    train_api: str,
    first: str,
    launch: Launch,
    results: Path,
    kube: KubeCluster,
    meanwhile: Meanwhile,
    tmp_path: Path,
) -> None:
    """The log is opened again after them: the request is valid, nothing is lost or said twice."""
    (results / "hold").touch()
    said: list[str] = []
    pattern = "master-0" if train_api == "pytorchjob" else "node-0-0-"
    cuts = Fault("cut", lambda call: call.resource == "pods/log", times=10**6, seconds=0.2)
    kube.fault(cuts)

    def write() -> None:
        until(lambda: f"[{first}] line 3" in said)
        name = until(lambda: running(kube, pattern))["metadata"]["name"]
        for line in KUBELETS:
            kube.kubelet.write_to_log(name, line)
        until(lambda: f"[{first}] {KUBELETS[-1]}" in said)
        opened = cuts.met
        until(lambda: cuts.met >= opened + 4)  # both pods'
        (results / "hold").unlink()

    meanwhile(write)
    launch(said=said, train_api=train_api)
    lines = [line.partition("] ")[2] for line in said if line.startswith(f"[{first}]")]
    ours = [line for line in lines if line not in KUBELETS]
    assert ours[1:] == ["line 1", "line 2", "line 3", "done"]
    assert [line for line in lines if line in KUBELETS] == list(KUBELETS)
    log = (tmp_path / "log.txt").read_text()
    for line in KUBELETS:
        assert re.search(rf"^2\d{{3}}-\d\d-\d\dT\S+Z \[{first}\] {re.escape(line)}$", log, re.M)
