"""What `submit.py` says before anything runs. (Real runs: test_submit_local.py.)"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from pipelines.kfp_client.api import Kfp
from pipelines.kfp_client.endpoint import Endpoint
from sdpose.config import dump_experiment, load_experiment
from sdpose.errors import UserError

CLUSTER = str(Path(__file__).with_name("cluster.yaml"))
ON_CLUSTER = ["--exp", "quickstart", "--cluster", CLUSTER, "--endpoint", "http://127.0.0.1:1"]


def outcome(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    stdout, stderr = process.communicate(timeout=240)
    return process.returncode, stdout, stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--exp", "maskedkd"], "unknown experiment 'maskedkd'"),
        (["--exp", "quickstart", "--set", "optimizer.lrr=1"], "did you mean 'lr'"),
        (["--exp", "quickstart", "--set", "total_epochs=0"], "total_epochs"),
        (["--exp", "quickstart", "--set", "load_from='{{$.x}}'"], "Kubeflow's own syntax"),
        (["--exp", "quickstart", "--register-as", "a/b"], "'a/b' cannot name a model"),
        (["--exp", "quickstart", "--runner", "slurm"], "'slurm'"),
        (["--exp", "quickstart", "--runner", "kfp"], "no Kubeflow Pipelines endpoint"),
        (["--exp", "quickstart", "--endpoint", "http://x", "--runner", "local"], "contradict"),
        (["--exp", "quickstart", "--endpoint", "http://x"], "--cluster FILE or $SDPOSE_CLUSTER"),
        (["--exp", "quickstart", "--cluster", CLUSTER], "or name it in the cluster profile"),
        (["--exp", "quickstart", "--cluster", CLUSTER, "--runner", "local"], "contradict"),
        ([*ON_CLUSTER, "--volume", "coco"], "expected CLAIM:/PATH"),
        ([*ON_CLUSTER, "--image", "Not an image"], "expected an image"),
        ([*ON_CLUSTER, "--schedule", "daily"], "expected five fields"),
        (
            ["--sweep", "seeds", *ON_CLUSTER[2:], "--schedule", "0 3 * * *"],
            "--schedule is for one experiment",
        ),
        (["--exp", "quickstart", "--schedule", "0 3 * * *"], "--schedule is for a cluster"),
        (["--exp", "quickstart", "--nodes", "2"], "--nodes is for a cluster"),
        (["--exp", "quickstart", "--volume", "coco:/data"], "--volume is for a cluster"),
        (["--exp", "quickstart", "--parallel", "2"], "--parallel is for the trials of a sweep"),
        (["--sweep", "seeds", "--promote", "staging"], "--promote is for one experiment"),
        (["resume", "nothing"], "nothing: no work dir of a run on this machine"),
        (["--exp", "quickstart", "--work-dir", "/proc/x"], "choose --work-dir"),
        ([], "--exp"),
    ],
)
def test_bad_input(submit, arguments: list[str], message: str, tmp_path: Path) -> None:
    code, _, stderr = outcome(submit(*arguments, cwd=tmp_path))
    assert code == 2
    assert message in stderr
    assert "Traceback" not in stderr


def test_dry_run_shows_everything_and_runs_nothing(submit, tmp_path: Path) -> None:
    process = submit(
        *("--exp", "quickstart", "--data-root", "coco", "--set", "seed=3"),
        *("--register-as", "poses", "--dry-run"),
        cwd=tmp_path,
    )
    code, stdout, stderr = outcome(process)
    assert (code, stderr) == (0, "")
    changes = ["seed=3", "registry.model=poses"]
    expected = load_experiment("quickstart", changes, data_root=str(tmp_path / "coco"))
    assert stdout.endswith(dump_experiment(expected) + "\n")
    assert yaml.safe_load(stdout)["seed"] == 3  # what is not the experiment is a comment
    assert "# runner: local (no Kubeflow Pipelines endpoint is configured" in stdout
    package = tmp_path / "work_dirs/quickstart/pipeline/sdpose_pipeline.yaml"
    assert f"# compiled pipeline: {package}\n" in stdout
    assert f"# data_root is not a folder: {tmp_path}/coco: the first step would fail" in stdout
    assert next(yaml.safe_load_all(package.read_text()))["pipelineInfo"]["name"] == "sdpose"
    assert list(package.parent.iterdir()) == [package]


def test_endpoint_from_the_environment_is_chosen(submit, tmp_path: Path) -> None:
    process = submit(
        *("--exp", "quickstart", "--cluster", CLUSTER, "--dry-run"),
        cwd=tmp_path,
        KFP_ENDPOINT="http://kfp.example",
    )
    code, stdout, _ = outcome(process)
    assert code == 0
    assert "# runner: kfp (endpoint http://kfp.example: $KFP_ENDPOINT)" in stdout


def test_a_dry_run_for_a_cluster_needs_no_endpoint(submit, tmp_path: Path) -> None:
    for what, kinds in {"--exp": ["PyTorchJob"], "--sweep": []}.items():
        name = "quickstart" if what == "--exp" else "seeds"
        process = submit(what, name, "--cluster", CLUSTER, "--dry-run", cwd=tmp_path)
        code, stdout, stderr = outcome(process)
        assert (code, stderr) == (0, "")
        documents = [document for document in yaml.safe_load_all(stdout) if document]
        assert [document["kind"] for document in documents if "kind" in document] == kinds
        assert any("pipelineInfo" in document for document in documents)


def test_unreachable_endpoint(submit, tmp_path: Path) -> None:
    start = time.monotonic()
    process = submit(*ON_CLUSTER, cwd=tmp_path)
    code, _, stderr = outcome(process)
    assert code == 2
    assert "no Kubeflow Pipelines at http://127.0.0.1:1 (--endpoint)" in stderr
    assert "--runner local" in stderr
    assert "Traceback" not in stderr
    assert time.monotonic() - start < 120  # not the minutes that a server may be away


def test_endpoint_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.kfp_client.api.TIMEOUT_S", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint = Endpoint(f"http://127.0.0.1:{silent.getsockname()[1]}", "--endpoint")
        with pytest.raises(UserError, match="timed out"):
            Kfp(endpoint).server()


def test_python_without_the_packages(repository: Path) -> None:
    command = [sys.executable, "-S", repository / "pipelines/submit.py", "--exp", "quickstart"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "lacks click, kfp" in result.stderr
    assert ".venv/bin/python" in result.stderr
    assert "Traceback" not in result.stderr
