"""Submission to a cluster: submit.py as a user runs it, against a server with KFP's interface."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from servers.kfp import KfpServer
from servers.objects import ObjectServer

from components.launcher import job_name
from components.profile import load_cluster
from pipelines.cluster.run_on_cluster import run_on_cluster
from pipelines.kfp_client.api import Kfp, Server
from pipelines.kfp_client.endpoint import Endpoint, find_endpoint
from pipelines.kfp_client.runs import cancel, follow, resume_run
from pipelines.kfp_client.version import TESTED, remarks
from pipelines.options import SubmitOptions
from pipelines.sweep_run import SweepRun
from sdpose.code_version import source_version
from sdpose.config import dump_experiment, load_experiment, parse_experiment
from sdpose.errors import UserError
from sdpose.sweeps import expand, load_sweep

CLUSTER = Path(__file__).with_name("cluster.yaml")
EXPERIMENT = ("--exp", "sdpose_t", "--cluster", CLUSTER)
OPTIONS = SubmitOptions(runner="kfp")


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    stdout, stderr = process.communicate(timeout=120)
    assert "Traceback" not in stdout + stderr
    return process.returncode, stdout, stderr


def steps(state: str) -> list[dict[str, Any]]:
    """As KFP lists them: prepare_coco was found in the cache, train fails or runs."""

    def task(name: str, state: str, children: tuple[str, ...] = ()) -> dict[str, Any]:
        times = {"start_time": "2026-11-25T20:00:00Z", "end_time": "2026-11-25T21:00:05Z"}
        below = [{"task_id": child, "pod_name": "not-the-real-one"} for child in children]
        return {"task_id": name, "display_name": name, "state": state, "child_tasks": below} | times

    executor = task("executor-1", "SKIPPED") | {"display_name": "executor"}
    return [
        *(task("root", state), task("root-driver", "SUCCEEDED")),
        *(task("prepare-coco-driver", "SUCCEEDED"), task("train-driver", "SUCCEEDED")),
        *(task("prepare-coco", "SUCCEEDED", ("executor-1",)), executor),
        task("train", state if state in {"FAILED", "SUCCEEDED"} else "RUNNING"),
    ]


def test_run_gets_the_whole_experiment_and_the_profile(
    submit, kfp_server: KfpServer, tmp_path: Path
) -> None:
    kfp_server.multi_user = True
    kfp_server.script = ["PENDING", "RUNNING", "SUCCEEDED"]
    kfp_server.tasks = steps
    kfp_server.fail_next = [503, 429]
    command = (*EXPERIMENT, "--endpoint", kfp_server.url, "--wait", "--gpus", "8")
    code, stdout, stderr = finished(submit(*command, cwd=tmp_path))
    assert (code, stderr) == (0, "")
    (run,) = kfp_server.of("runs")
    assert f"runner: kfp (endpoint {kfp_server.url}: --endpoint)" in stdout
    assert f"run: {kfp_server.url}/#/runs/details/{run['run_id']}" in stdout
    assert "the first run of sdpose_t here" in stdout
    assert "  prepare-coco: nothing that it depends on has changed" in stdout
    assert stdout.count("  train: running\n") == 1
    assert "  train: done in 1:00:05\n" in stdout
    assert stdout.endswith("run SUCCEEDED: every step has done its work\n")

    experiment = load_experiment("sdpose_t", data_root="/data/coco", work_dir="/results/sdpose_t")
    parameters = run["runtime_config"]["parameters"]
    assert parameters["experiment"] == dump_experiment(experiment)
    assert parameters["code_version"] == source_version()
    assert json.loads(parameters["cluster_profile"])["gpus_per_node"] == 8
    assert run["service_account"] == "sdpose-pipeline"
    (group,) = kfp_server.of("experiments")
    assert (group["display_name"], group["namespace"]) == ("sdpose_t", "pose")
    (version,) = kfp_server.of("versions")
    assert (
        run["pipeline_version_reference"]["pipeline_version_id"] == version["pipeline_version_id"]
    )
    assert version["pipeline_spec"]["pipeline_spec"]["pipelineInfo"]["name"] == "sdpose"

    # Again, with one value changed: the same pipeline version, and what has changed is told.
    command = (*EXPERIMENT, "--endpoint", kfp_server.url, "--set", "seed=7", "--run-name", "second")
    code, stdout, _ = finished(submit(*command, "--gpus", "8", cwd=tmp_path))
    assert code == 0
    assert len(kfp_server.of("versions")) == 1
    assert kfp_server.of("runs")[1]["display_name"] == "second"
    assert "SUCCEEDED), so what depends on it runs again: experiment: seed: 0 -> 7\n" in stdout


@pytest.mark.parametrize("multi_user", [False, True])
@pytest.mark.parametrize("kfp_version", TESTED)
def test_a_life_with_every_version(
    kfp_server: KfpServer,
    kfp_version: str,
    multi_user: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The server refuses what the version does not declare."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KFP_TOKEN", raising=False)
    kfp_server.multi_user = multi_user
    kfp_server.script, kfp_server.tasks = ["RUNNING", "FAILED"], steps
    endpoint, cluster = Endpoint(kfp_server.url, "--endpoint"), load_cluster(CLUSTER)
    experiment = load_experiment("sdpose_t", **cluster.places("sdpose_t"))
    assert run_on_cluster(experiment, cluster, endpoint, replace(OPTIONS, wait=True)) == 1
    output = capfd.readouterr().out
    assert ("ignores `security` of the profile" in output) == (kfp_version == "2.15.0")
    assert "not tested" not in output
    kfp = Kfp(endpoint)
    assert kfp.server() == Server(multi_user, kfp_version)
    (run,) = kfp_server.of("runs")
    assert resume_run(kfp, run["run_id"]) == run["run_id"]
    assert follow(kfp, run["run_id"]) == 0

    kfp_server.script = ["RUNNING"]
    assert run_on_cluster(experiment, cluster, endpoint, replace(OPTIONS, run_name="second")) == 0
    second = kfp_server.of("runs")[1]["run_id"]
    cancel(kfp, second)
    assert follow(kfp, second) == 3  # CANCELED
    kfp_server.can_retry = False
    again = kfp.run(resume_run(kfp, second))
    version = "pipeline_version_reference"
    assert again[version] == kfp.run(second)[version]

    sweep = load_sweep("seeds")
    trials = expand(sweep, rungs="/results/rungs", data_root="/data", work_dir="/results")
    sweep_run = SweepRun(sweep, trials, parallel=2)
    assert run_on_cluster(sweep_run, cluster, endpoint, OPTIONS) == 0
    cancel(kfp, kfp_server.of("runs")[-1]["run_id"])

    schedule = replace(OPTIONS, schedule="0 3 * * 1")
    assert run_on_cluster(experiment, cluster, endpoint, schedule) == 0
    (schedule,) = kfp_server.of("recurringruns")
    cancel(kfp, schedule["recurring_run_id"])
    assert kfp_server.of("recurringruns") == []


@pytest.mark.parametrize(
    ("tag", "remark"),
    [
        ("unknown", "does not say which version it is; sdpose is tested against the API of 2.15.0"),
        ("2.18.1", "Kubeflow Pipelines 2.18.1 is not tested: the versions whose API"),
        ("2.5.0", "Kubeflow Pipelines 2.5.0 ignores `security` of the profile"),
    ],
)
def test_a_version_that_is_not_tested_is_said(kfp_server: KfpServer, tag: str, remark: str) -> None:
    kfp_server.tag_name = tag
    version = Kfp(Endpoint(kfp_server.url, "--endpoint")).server().version
    assert any(remark in line for line in remarks(version))


@pytest.mark.parametrize(
    ("state", "code", "meaning"),
    [
        ("FAILED", 1, "a step has failed"),
        ("CANCELED", 3, "somebody has ended it"),
        ("SKIPPED", 4, "run none of its steps"),
    ],
)
def test_other_endings(
    submit, kfp_server: KfpServer, tmp_path: Path, state: str, code: int, meaning: str
) -> None:
    kfp_server.script = [state]
    kfp_server.tasks = steps
    command = (*EXPERIMENT, "--endpoint", kfp_server.url, "--wait")
    found, stdout, _ = finished(submit(*command, cwd=tmp_path))
    run_id = kfp_server.of("runs")[0]["run_id"]
    assert found == code
    assert f"run {state}: " in stdout
    assert meaning in stdout
    assert f"kubectl -n pose logs -l pipeline/runid={run_id} " in stdout
    assert stdout.endswith(f"submit.py resume {run_id}\n")


@pytest.mark.parametrize("cancel_on_interrupt", [False, True])
def test_interrupt_while_waiting(
    submit, kfp_server: KfpServer, tmp_path: Path, cancel_on_interrupt: bool
) -> None:
    kfp_server.script = ["RUNNING"]
    option = ["--cancel-on-interrupt"] * cancel_on_interrupt
    process = submit(*EXPERIMENT, "--endpoint", kfp_server.url, "--wait", *option, cwd=tmp_path)
    for line in process.stdout:
        if line == "run RUNNING\n":
            break
    process.send_signal(signal.SIGINT)
    code, stdout, _ = finished(process)
    (run,) = kfp_server.of("runs")
    assert code == 130
    if cancel_on_interrupt:
        assert f"run {run['run_id']} is being ended" in stdout
        assert run["script"] == ["CANCELING", "CANCELED"]
    else:
        assert (
            f"the run goes on. To end it:\n  python pipelines/submit.py cancel {run['run_id']}\n"
            in (stdout)
        )
        assert run["script"] == ["RUNNING"]


def test_resume_and_cancel(submit, kfp_server: KfpServer, tmp_path: Path) -> None:
    kfp_server.script = ["FAILED"]
    at = ("--endpoint", kfp_server.url)
    assert finished(submit(*EXPERIMENT, *at, cwd=tmp_path))[0] == 0
    (run,) = kfp_server.of("runs")

    code, stdout, _ = finished(submit("resume", run["run_id"], *at, "--wait", cwd=tmp_path))
    assert code == 0
    assert "goes on with the steps that have not succeeded (KFP's retry)" in stdout
    assert run["retried"] == 1

    code, _, stderr = finished(submit("resume", run["run_id"], *at, cwd=tmp_path))
    assert (code, "has succeeded: there is nothing to resume" in stderr) == (2, True)

    # An old KFP: a new run of the same pipeline with the same values.
    run["script"] = ["FAILED"]
    kfp_server.can_retry = False
    kfp_server.script = ["RUNNING"]
    code, stdout, _ = finished(submit("resume", run["run_id"], *at, cwd=tmp_path))
    assert code == 0
    assert "steps that have succeeded are found in KFP's cache" in stdout
    again = kfp_server.of("runs")[1]
    for key in ("runtime_config", "pipeline_version_reference", "service_account"):
        assert again[key] == run[key]

    code, stdout, _ = finished(submit("cancel", again["run_id"], *at, cwd=tmp_path))
    assert (code, again["script"]) == (0, ["CANCELING", "CANCELED"])
    code, _, stderr = finished(submit("cancel", "nonsense", *at, cwd=tmp_path))
    assert (code, "knows no run and no schedule nonsense" in stderr) == (2, True)


def test_cancel_removes_the_training_job(
    submit, kfp_server: KfpServer, object_server: ObjectServer, tmp_path: Path
) -> None:
    kfp_server.script = ["RUNNING"]
    at = ("--endpoint", kfp_server.url)
    assert finished(submit(*EXPERIMENT, *at, cwd=tmp_path))[0] == 0
    (run,) = kfp_server.of("runs")
    experiment = parse_experiment(run["runtime_config"]["parameters"]["experiment"])
    job = f"/apis/kubeflow.org/v1/namespaces/pose/pytorchjobs/{job_name(experiment, run['run_id'])}"
    object_server.objects[job] = {"kind": "PyTorchJob"}
    kubeconfig = str(object_server.kubeconfig(tmp_path / "kubeconfig"))
    command = ("cancel", run["run_id"], *at)
    code, stdout, _ = finished(submit(*command, cwd=tmp_path, KUBECONFIG=kubeconfig))
    assert (code, object_server.objects) == (0, {})
    assert "is being removed; training saves a checkpoint first" in stdout


def test_schedule(submit, kfp_server: KfpServer, tmp_path: Path) -> None:
    at = ("--endpoint", kfp_server.url)
    command = (*EXPERIMENT, *at, "--schedule", "0 3 * * 1")
    code, _, _ = finished(submit(*command, cwd=tmp_path))
    (schedule,) = kfp_server.of("recurringruns")
    assert code == 0
    assert schedule["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * 1"  # KFP has seconds first
    assert (schedule["mode"], schedule["no_catchup"]) == ("ENABLE", True)
    assert schedule["max_concurrency"] == "1"
    assert not kfp_server.of("runs")
    code, _, stderr = finished(submit(*command, cwd=tmp_path))
    assert (code, "is scheduled already (0 0 3 * * 1)" in stderr) == (2, True)
    code, _, _ = finished(submit("cancel", schedule["recurring_run_id"], *at, cwd=tmp_path))
    assert (code, kfp_server.of("recurringruns")) == (0, [])


def test_dry_run_prints_what_would_be_submitted(submit, tmp_path: Path) -> None:
    command = (*EXPERIMENT, "--endpoint", "http://127.0.0.1:1", "--dry-run", "--train-api")
    code, stdout, stderr = finished(submit(*command, "pytorchjob", cwd=tmp_path))
    assert (code, stderr) == (0, "")
    experiment, job, pipeline, platform = yaml.safe_load_all(stdout)
    assert experiment["work_dir"] == "/results/sdpose_t"
    assert job["kind"] == "PyTorchJob"
    assert job["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"] == 1
    assert pipeline["pipelineInfo"]["name"] == "sdpose"
    assert "platforms" in platform


def test_refusals_say_what_to_do(
    kfp_server: KfpServer, object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("KFP_TOKEN", "KFP_COOKIE"):
        monkeypatch.delenv(variable, raising=False)
    endpoint = Endpoint(kfp_server.url, "--endpoint")
    kfp_server.token = "secret"
    with pytest.raises(UserError, match=r"(?s)HTTP 401: .*no user identity.*set \$KFP_TOKEN"):
        Kfp(endpoint).server()
    kfp_server.login_page = True
    with pytest.raises(UserError, match=r"(?s)a login page: .*no credentials.*\$KFP_COOKIE"):
        Kfp(endpoint).server()
    monkeypatch.setenv("KFP_TOKEN", "secret")
    kfp = Kfp(endpoint)
    assert not kfp.server().multi_user
    kfp_server.forbidden = {"experiments"}
    with pytest.raises(UserError, match=r"(?s)you may not create the experiment .*--namespace"):
        kfp.experiment("new", None)
    another = Endpoint(f"http://127.0.0.1:{object_server.server_port}", "--endpoint")
    with pytest.raises(UserError, match=r"(?s)no Kubeflow Pipelines at .*: HTTP 404.*port-forward"):
        Kfp(another).server()


def test_token_file_that_is_renewed(
    kfp_server: KfpServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("KFP_TOKEN", raising=False)
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    (tmp_path / "token").write_text("first\n")
    kfp = Kfp(Endpoint(kfp_server.url, "--endpoint"))
    for token in ("first", "second"):
        kfp_server.token = token
        (tmp_path / "token").write_text(token)
        assert not kfp.server().multi_user
    (tmp_path / "token").write_text("<html> an error page")
    with pytest.raises(UserError, match=r"^/.*/token is no token: it holds spaces") as caught:
        kfp.server()
    assert "html" not in str(caught.value)


def test_run_whose_answer_is_lost_is_found(kfp_server: KfpServer, submit, tmp_path: Path) -> None:
    kfp_server.lose_answer_of = "POST runs"
    code, stdout, _ = finished(submit(*EXPERIMENT, "--endpoint", kfp_server.url, cwd=tmp_path))
    (run,) = kfp_server.of("runs")
    assert code == 0
    assert run["run_id"] in stdout


def test_endpoint_is_chosen_in_order() -> None:
    environ = {"KFP_ENDPOINT": "http://env"}
    for option, profile, host in [
        ("http://flag", "http://profile", "http://flag"),
        (None, "http://profile", "http://profile"),
        (None, None, "http://env"),
    ]:
        found = find_endpoint(option, profile, environ)
        assert found is not None
        assert found.host == host
    assert find_endpoint(None, None, {}) is None


def test_waiting_survives_a_silent_server(
    kfp_server: KfpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.kfp_client import api as kfp_api
    from pipelines.kfp_client import watch_run

    monkeypatch.setattr(kfp_api, "PATIENCE_S", 0.0)
    monkeypatch.setattr(watch_run, "FIRST_POLL_S", 0.1)
    run = kfp_server.add("runs", "run_id", {"script": ["RUNNING", "SUCCEEDED"]})
    kfp_server.fail_next = [503] * 3
    said: list[str] = []
    kfp = Kfp(Endpoint(kfp_server.url, "--endpoint"))
    start = time.monotonic()
    monkeypatch.setattr(watch_run, "say", lambda text, **_: said.append(text))
    watch_run.wait_for_run(kfp, run["run_id"])
    assert [text for text in said if "still trying" in text] == said[:1]
    assert said[1:] == [f"{kfp_server.url} answers again", "run RUNNING"]
    assert time.monotonic() - start < 30
