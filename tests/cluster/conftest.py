from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.launcher.launch import run_job
from components.profile import Cluster, parse_cluster
from sdpose.config import Experiment, load_experiment
from tests.cluster.kinds import PYTORCHJOB, JobFacts
from tests.cluster.kube import KubeCluster
from tests.cluster.kube.cluster import NAMESPACE
from tests.cluster.kube.crds import TRAINERS
from tests.cluster.kube.store import Object
from tests.shipped import CRDS

Launch = Callable[..., list[str]]
Meanwhile = Callable[[Callable[[], Any]], None]

IMAGE = "registry.test/sdpose@sha256:" + "1" * 64


@pytest.fixture(scope="session")
def may_mount() -> None:
    """Root alone is not enough in most containers."""
    command = ["unshare", "--mount", "--pid", "--fork", "mount", "-t", "tmpfs", "none", "/tmp"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=240)
        error = ""
    except OSError as missing:
        error = str(missing)
    except subprocess.CalledProcessError as refused:
        error = refused.stderr.strip() or str(refused)
    if error:
        message = (
            f"the test kubelet needs root on Linux with CAP_SYS_ADMIN, for its mounts: {error}"
        )
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(message)


@pytest.fixture
def job_kind() -> JobFacts:
    """What `launch` trains with; a file that tests all kinds overrides it."""
    return PYTORCHJOB


@pytest.fixture
def trainer_version() -> str:
    """Of Kubeflow Trainer in the cluster."""
    return TRAINERS[-1]


@pytest.fixture
def our_runtime(repository: Path) -> Object:
    """The TrainingRuntime that k8s/ ships, in the namespace of the tests."""
    path = repository / "k8s/components/trainer/trainingruntime.yaml"
    runtime: Object = yaml.safe_load(path.read_text(encoding="utf-8"))
    runtime["metadata"]["namespace"] = NAMESPACE
    return runtime


@pytest.fixture
def kube(
    may_mount: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trainer_version: str,
    our_runtime: Object,
) -> Iterator[KubeCluster]:
    """A cluster of its own; $KUBECONFIG points at it."""
    for name in ("KUBERNETES_SERVICE_HOST", "KFP_POD_NAME", "POD_NAME", "POD_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    with KubeCluster(tmp_path / "kube", CRDS, trainer_version) as cluster:
        cluster.install(our_runtime)
        cluster.claims["results"] = tmp_path / "results"
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig()))
        yield cluster
    # A launcher's thread that goes on would meet the next test's patches and write its log.
    names = ("watch ", "log of ", "progress")
    left = [thread for thread in threading.enumerate() if thread.name.startswith(names)]
    for thread in left:
        thread.join(20)
    assert not [thread.name for thread in left if thread.is_alive()]


@pytest.fixture
def profile() -> Cluster:
    """Two nodes of one CPU process each."""
    return parse_cluster(
        f"""
        namespace: pose
        image: {IMAGE}
        nodes: 2
        gpus_per_node: 0
        volumes: [{{claim: results, path: /results}}]
        data_root: /results/data
        work_dirs: /results
        termination_grace_seconds: 5
        """
    )


@pytest.fixture
def experiment(profile: Cluster) -> Experiment:
    return load_experiment("quickstart", **profile.places("quickstart"))


# What the image's `python` does instead of training: says who it is, ends as /results/exit-<rank>
# says (once), or waits while there is /results/hold.
PROGRAM = """#!/bin/sh
trap 'echo terminated; exit 143' TERM
echo "rank ${RANK:-$PET_NODE_RANK} of ${WORLD_SIZE:-$PET_NNODES}"
for i in 1 2 3; do echo "line $i"; done
code=/results/exit-${RANK:-$PET_NODE_RANK}
if [ -e $code ]; then c=$(cat $code); rm -f $code; echo "failing with $c"; exit $c; fi
while [ -e /results/hold ]; do sleep 0.05; done
echo done
"""


@pytest.fixture
def results(kube: KubeCluster) -> Path:
    """The volume of the results; the image is one that only pretends to train."""
    kube.images[IMAGE] = {"python": PROGRAM.encode()}
    folder = kube.claims["results"]
    folder.mkdir(exist_ok=True)
    return folder


@contextlib.contextmanager
def logged_to(said: list[str]) -> Iterator[None]:
    """Inside, what the launcher logs is in the list."""
    logger, handler = logging.getLogger("components"), logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@pytest.fixture
def launch(
    kube: KubeCluster, experiment: Experiment, profile: Cluster, tmp_path: Path, job_kind: JobFacts
) -> Launch:
    """Runs the job of a run to its end; returns what was said. Keywords change the profile."""

    def run(
        run_id: str = "run-1",
        said: list[str] | None = None,
        before_creation: Callable[[], None] = lambda: None,
        **changes: Any,
    ) -> list[str]:
        said = [] if said is None else said
        changes.setdefault("train_api", job_kind.train_api)
        with logged_to(said):
            run_job(
                experiment,
                parse_cluster(profile.model_dump_json(), **changes),
                run_id=run_id,
                log=tmp_path / "log.txt",
                before_creation=before_creation,
            )
        return said

    return run


@pytest.fixture
def meanwhile(kube: KubeCluster) -> Iterator[Meanwhile]:
    """Runs something beside the test's own thread; it must have ended well when the test ends.

    If it fails, the jobs are deleted: nobody would end them.
    """
    threads: list[threading.Thread] = []
    failures: list[BaseException] = []

    def start(action: Callable[[], Any]) -> None:
        def run() -> None:
            try:
                action()
            except BaseException as error:
                failures.append(error)
                for plural in ("pytorchjobs", "trainjobs"):
                    for job in kube.jobs(plural):
                        kube.delete(plural, job["metadata"]["name"])

        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join(110)
    assert not failures, failures


def running(kube: KubeCluster, name: str) -> Object | None:
    """The pod of that role, if its program runs."""
    for pod_name, pod in kube.pods().items():
        if name in pod_name and kube.kubelet.has_spoken(pod_name):
            return pod
    return None


def until(condition: Callable[[], Any], timeout: float = 100) -> Any:
    """Waits for something to be true, and returns it."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def run_in_a_workflow(
    kube: KubeCluster, monkeypatch: pytest.MonkeyPatch, name: str = "launcher"
) -> None:
    """This process is a pod of that name, which the Argo Workflow `w` owns."""
    kind = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow"}
    key = ("argoproj.io", "workflows", "pose", "w")
    if not kube.store.list(*key[:2]):
        kube.store.create(*key[:2], kind | {"metadata": {"name": "w", "namespace": "pose"}})
    owner = kind | {"name": "w", "uid": kube.store.get(key)["metadata"]["uid"]}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "pose", "ownerReferences": [owner]},
        # It runs already: not to be started by the test's kubelet.
        "spec": {"nodeName": "node-1", "containers": [{"name": "main", "image": IMAGE}]},
        "status": {"phase": "Running"},
    }
    kube.store.create("", "pods", pod)
    monkeypatch.setenv("KFP_POD_NAME", name)
    monkeypatch.setenv("POD_NAMESPACE", "pose")
