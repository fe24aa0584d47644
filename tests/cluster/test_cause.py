"""Which pod a failed job is blamed on, when several end because of one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from components.launcher.failure import JobError
from components.launcher.launch import run_job
from components.profile import parse_cluster
from sdpose.config import load_experiment
from sdpose.errors import PEER_ERROR, PEER_LOST
from sdpose.tools.synthetic.dataset import write_synthetic_coco
from tests.cluster.conftest import IMAGE, Launch, logged_to
from tests.cluster.kube import KubeCluster

# Rank 0 says what SAYS holds and goes on ending, as after an error that closes its uploads; rank 1
# ends with CODE once that is said, having said FOLLOWS.
PROGRAM = """#!/bin/sh
trap 'exit 143' TERM
if [ "${RANK:-$PET_NODE_RANK}" = 0 ]; then
  echo "Epoch [1][50/100]"
  SAYS
  touch /results/said
  while :; do sleep 0.05; done
fi
while [ ! -e /results/said ]; do sleep 0.05; done
FOLLOWS
exit CODE
"""
MASTER = {"pytorchjob": "(master-0)", "trainjob": "(node-0)"}
WORKER = {"pytorchjob": "(worker-0)", "trainjob": "(node-1)"}
TRACEBACK = "Traceback (most recent call last):\\n  File x\\nKeyError: 3"


def run(kube: KubeCluster, says: str, follows: str, code: int = 2) -> None:
    lines = {"SAYS": says, "FOLLOWS": follows}
    program = PROGRAM.replace("CODE", str(code))
    for name, text in lines.items():
        program = program.replace(f"\n  {name}" if name == "SAYS" else f"\n{name}", f"\n{text}")
    kube.images[IMAGE] = {"python": program.encode()}


def say(text: str) -> str:
    return f'printf "{text}\\n"'


@pytest.mark.parametrize("train_api", ["pytorchjob", "trainjob"])
@pytest.mark.parametrize("follows", ["", say(f"{PEER_ERROR}; see its output")], ids=["silent", ""])
@pytest.mark.parametrize("error", ["error: MLflow cannot be written", TRACEBACK], ids=["", "trace"])
def test_the_pod_that_said_an_error_is_blamed(
    train_api: str, follows: str, error: str, launch: Launch, results: Path, kube: KubeCluster
) -> None:
    run(kube, say(error), follows)
    with pytest.raises(JobError) as failure:
        launch(train_api=train_api)
    text = str(failure.value)
    blamed, _, rest = text.partition("its last lines:")
    assert MASTER[train_api] in blamed, text
    assert error.split("\\n")[-1] in rest, text
    assert f"{WORKER[train_api]}: exit code 2" in text, "what Kubernetes saw is reported, too"
    assert failure.value.exit_code == 2


@pytest.mark.parametrize("train_api", ["pytorchjob", "trainjob"])
def test_a_silent_end_without_an_error_anywhere_shows_the_first_pod(
    train_api: str, launch: Launch, results: Path, kube: KubeCluster
) -> None:
    run(kube, "", "")
    with pytest.raises(JobError) as failure:
        launch(train_api=train_api)
    assert MASTER[train_api] in str(failure.value).partition("its last lines:")[0]
    assert "    Epoch [1][50/100]" in str(failure.value)


@pytest.mark.parametrize("train_api", ["pytorchjob", "trainjob"])
@pytest.mark.parametrize(
    ("says", "follows", "code"),
    [
        # The one that ended lost nobody: it is the cause, whatever the others print about it.
        (f"error: {PEER_LOST}: Connection closed by peer", "", 1),
        (f"error: {PEER_LOST}: Connection closed by peer", "error: no such key", 2),
        ("error: something later", "error: no such key", 2),
        ("Epoch [1][51/100]", "sh: python: not found", 127),
    ],
)
def test_a_pod_that_explains_its_own_end_is_blamed(
    train_api: str,
    says: str,
    follows: str,
    code: int,
    launch: Launch,
    results: Path,
    kube: KubeCluster,
) -> None:
    run(kube, say(says), say(follows) if follows else "", code)
    with pytest.raises(JobError) as failure:
        launch(train_api=train_api)
    text = str(failure.value)
    blamed, _, rest = text.partition("its last lines:")
    assert f"{WORKER[train_api]}: exit code {code}, Error" in blamed, text
    assert MASTER[train_api] not in blamed, text
    assert (follows or "(no output)") in rest, text


@pytest.mark.timeout(600)
@pytest.mark.parametrize("train_api", ["pytorchjob", "trainjob"])
def test_a_users_error_of_rank_0_in_a_real_training(
    train_api: str, kube: KubeCluster, repository: Path, tmp_path: Path
) -> None:
    """Two pods that really train; only rank 0 talks to MLflow, which does not answer."""
    volume = kube.claims["results"]  # mounted in the pods at its own path: it is read here, too
    write_synthetic_coco(volume / "data", num_train=16, num_val=4, seed=0)
    kube.images[IMAGE] = {"python": f'#!/bin/sh\nexec {sys.executable} "$@"\n'.encode()}
    kube.container_env = {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    cluster = parse_cluster(
        f"""
        namespace: pose
        image: {IMAGE}
        train_api: {train_api}
        nodes: 2
        gpus_per_node: 0
        volumes: [{{claim: results, path: "{volume}"}}]
        data_root: {volume}/data
        work_dirs: {volume}
        env: {{MLFLOW_TRACKING_URI: "http://127.0.0.1:9"}}
        """
    )
    experiment = load_experiment(
        "quickstart", ("data.samples_per_gpu=4",), **cluster.places("quickstart")
    )
    said: list[str] = []
    with logged_to(said), pytest.raises(JobError) as failure:
        run_job(experiment, cluster, run_id="r", log=tmp_path / "log.txt")
    text = str(failure.value)
    blamed, _, lines = text.partition("its last lines:")
    assert MASTER[train_api] in blamed, text
    assert "    error: MLflow at http://127.0.0.1:9" in lines, text
    assert failure.value.exit_code == 2
    follower = f"[{WORKER[train_api].strip('()')}] process 1 ends: {PEER_ERROR}; see its output"
    assert follower in said, said
