"""`sdpose doctor` beside real servers, real damage, and a disk that is too small."""

from __future__ import annotations

import contextlib
import http.server
import json
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from servers.mlflow import MlflowServer
from servers.proxy import Answer, Delay, FaultProxy
from servers.s3 import S3Server

from sdpose import tracking
from sdpose.checks.batch import Trial, largest_that_fits
from sdpose.checks.space import kept_checkpoints
from sdpose.cli import cli
from sdpose.config import Experiment, flatten, load_experiment
from sdpose.registry.register import register_checkpoint
from sdpose.runner.train import train
from sdpose.storage import S3Store
from sdpose.tools.synthetic.dataset import write_synthetic_coco

TINY = """
exp_name: tiny
model:
  backbone: {width: 4, num_blocks: 1}
  keypoint_head: {tokenpose_cfg: {patch_size: [8, 6], dim: 16, depth: 1, heads: 2}}
data_cfg: {image_size: [48, 64], heatmap_size: [12, 16], use_gt_bbox: true}
data_root: coco
data: {samples_per_gpu: 4, workers_per_gpu: 0}
total_epochs: 2
checkpoint_config: {interval: 1}
evaluation: {interval: 2}
ema: {}
log_config: {hooks: [TextLoggerHook]}
"""
HOOKS = "log_config.hooks=[TextLoggerHook, MlflowLoggerHook]"
NOWHERE = "http://127.0.0.1:1"

Doctor = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco")
    write_synthetic_coco(folder, num_train=8, num_val=3, seed=0)
    return folder


@pytest.fixture
def folder(tmp_path: Path, coco: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user stands: an experiment and its data."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    shutil.copytree(coco, tmp_path / "coco")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDPOSE_CACHE", str(tmp_path / "cache"))
    for name in ("MLFLOW_TRACKING_URI", "SDPOSE_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def doctor(folder: Path) -> Doctor:
    def run(*arguments: str) -> tuple[int, str]:
        command = ["doctor", "tiny.yaml", *arguments]
        result = CliRunner().invoke(cli, command, catch_exceptions=False)
        return result.exit_code, result.stdout

    return run


def tiny(*changes: str) -> Experiment:
    return load_experiment("tiny.yaml", changes)


def use(server: S3Server, monkeypatch: pytest.MonkeyPatch, url: str | None = None) -> str:
    for name, value in server.environment(url).items():
        monkeypatch.setenv(name, value)
    return server.new_bucket()


def files(folder: Path) -> set[Path]:
    return {p for p in folder.rglob("*") if p.parts[-2] != "prepare" and "cache" not in p.parts}


def test_all_is_there(
    doctor: Doctor, folder: Path, moto: S3Server, mlflow_server: MlflowServer, monkeypatch
) -> None:
    bucket = use(moto, monkeypatch)
    monkeypatch.setenv("SDPOSE_REGISTRY", f"s3://{bucket}/registry")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    changes = ("exp_name=all_is_there", HOOKS, f"checkpoint_config.mirror=s3://{bucket}/runs")
    before = files(folder)
    code, text = doctor(*(word for change in changes for word in ("--set", change)))
    assert code == 0, text
    for line in (
        "data.train: 8 images",
        "8 of them decoded",
        f"the mirror s3://{bucket}/runs/all_is_there can be read and written",
        "the mirror: 5 checkpoints of",
        "the server tells no quota",
        f"the model registry s3://{bucket}/registry can be read and written",
        "the model registry has no tiny yet",  # of the first base
        f"MLflow {mlflow_server.uri} can be written",
        "MLflow has no run all_is_there yet",
        "start: from the beginning",
        "5 checkpoints of",
    ):
        assert line in text
    if not torch.cuda.is_available():
        assert "unknown  batch: data.samples_per_gpu 4 was not tried: no GPU" in text
    assert files(folder) == before  # the work dir, too, is not made
    assert not moto.client().list_objects_v2(Bucket=bucket).get("Contents")


def test_every_problem_in_one_list(
    doctor: Doctor, folder: Path, moto: S3Server, monkeypatch
) -> None:
    images = sorted((folder / "coco/train2017").iterdir())
    images[0].unlink()
    images[1].write_bytes(b"")
    (folder / "coco/annotations/person_keypoints_val2017.json").unlink()
    train = folder / "coco/annotations/person_keypoints_train2017.json"
    document = json.loads(train.read_text())
    names = {image["id"]: image["file_name"] for image in document["images"]}
    person = next(
        entry
        for entry in document["annotations"]
        if names[entry["image_id"]] not in (images[0].name, images[1].name)
        and entry["num_keypoints"]
        and not entry["iscrowd"]
    )
    person["area"] = 0
    train.write_text(json.dumps(document))
    use(moto, monkeypatch)
    monkeypatch.setenv("SDPOSE_REGISTRY", "s3://no-such-bucket/registry")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
    (folder / "theirs.pth").write_bytes(b"not a checkpoint")
    wrong = (
        HOOKS,
        "checkpoint_config.mirror=s3://no-such-bucket/runs",
        "total_epochs=100000000",  # too many checkpoints for any disk
        "data.workers_per_gpu=1000000",
    )
    arguments = [word for change in wrong for word in ("--set", change)]
    code, text = doctor(*arguments, "--load-from", "theirs.pth", "--json")
    report = json.loads(text)
    assert code == 1
    problems = {problem["what"]: problem["remedy"] for problem in report["problems"]}
    for what, remedy in (
        ("2 of 8 images are unusable", "data.on_corrupt=skip"),
        (f"{images[0].name}: file not found", ""),
        (f"{images[1].name}: the file is empty", ""),
        ("data.val.ann_file not found", "How to get COCO"),
        ("the mirror: s3://no-such-bucket/runs/tiny", "Make the bucket"),
        ("the model registry: s3://no-such-bucket/registry", "Make the bucket"),
        (f"MLflow at {NOWHERE}", "Set MLFLOW_TRACKING_URI"),
        ("too little", "max_keep_ckpts"),
        ("shared memory: ", "--shm-size"),
        ("load_from: ", ""),
    ):
        found = [text for text in problems if what in text]
        assert found, f"{what} is not in {list(problems)}"
        assert remedy in problems[found[0]]
    assert "1 labelled person is left out, with area 0 or less" in "".join(report["warnings"])


def test_services_that_do_not_answer_are_given_up(
    doctor: Doctor, moto: S3Server, mlflow_server: MlflowServer, monkeypatch
) -> None:
    """A bucket and an MLflow that hang: the limits of the environment hold."""
    for name, value in {
        "SDPOSE_S3_TIMEOUT": "1",
        "AWS_MAX_ATTEMPTS": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "1",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }.items():
        monkeypatch.setenv(name, value)
    with FaultProxy.to(moto.url) as store, FaultProxy.to(mlflow_server.uri) as mlflow:
        bucket = use(moto, monkeypatch, store.url)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow.url)
        store.plan = mlflow.plan = lambda request: Delay(5)
        code, text = doctor("--set", HOOKS, "--work-dir", f"s3://{bucket}/tiny")
        store.plan = lambda request: Answer(403, "AccessDenied")
        denied, said = doctor("--work-dir", f"s3://{bucket}/tiny")
    assert (code, denied) == (1, 1)
    assert "problem  the mirror: " in text
    assert "problem  MLflow at" in text
    assert "The credentials need s3:GetObject" in said


@pytest.mark.slow
def test_what_would_be_continued(doctor: Doctor, folder: Path) -> None:
    """A run that has ended, a damaged checkpoint, other settings, and none of it is touched."""
    mirror = ("--set", "checkpoint_config.mirror=mirror")
    train(tiny(mirror[1]))
    work_dir = folder / "work_dirs/tiny"
    before = files(folder)
    code, text = doctor(*mirror)
    assert code == 0, text
    assert "latest.pth has all of 2 epochs: nothing is left to do" in text

    code, text = doctor(*mirror, "--set", "optimizer.lr=0.5")
    assert code == 1
    assert "start: work_dirs/tiny holds another experiment's results" in text
    assert "optimizer.lr: 0.001 -> 0.5" in text
    assert "--overwrite to remove them" in text
    assert doctor(*mirror, "--set", "optimizer.lr=0.5", "--overwrite")[0] == 0

    code, text = doctor("--set", "ema=null", "--set", "exp_name=b", "--resume-from", "nowhere.pth")
    assert code == 1
    assert "resume_from: cannot read nowhere.pth" in text
    resumed = ("--work-dir", "b", "--resume-from", "work_dirs/tiny/epoch_1.pth")
    code, text = doctor(*resumed)
    assert code == 0
    assert "epoch_1.pth, which is whole: 1 of 2 epochs" in text
    code, text = doctor(*resumed, "--set", "model.backbone.width=8")
    assert code == 1
    assert "epoch_1.pth is of another model: " in text
    assert files(folder) == before

    for name in ("latest.pth", "epoch_2.pth", "best_AP_epoch_2.pth"):
        path = work_dir / name
        content = bytearray(path.read_bytes())
        path.unlink()  # they are one file
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    code, text = doctor()
    assert code == 1
    assert text.count("damaged; training would pass it over") == 3
    assert "epoch_1.pth, which is whole: 1 of 2 epochs" in text
    before = files(folder)
    code, text = doctor(*mirror)  # which has a whole one
    assert code == 1
    assert "start: the mirror's latest.pth has all of 2 epochs" in text
    assert files(folder) == before


@pytest.mark.slow
def test_a_name_that_stands_for_something_else(doctor: Doctor, folder: Path, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    result = train(tiny("log_config.hooks=[TextLoggerHook]"))
    register_checkpoint(
        "tiny", result.last_checkpoint, experiment=tiny(), root="work_dirs/registry"
    )
    params = flatten(tiny(HOOKS).model_dump(mode="json"))
    tracking.start_run("tiny", params=params, tags={}).end("FINISHED")
    code, text = doctor("--set", HOOKS, "--work-dir", "other")
    assert "1 runs tiny, all of these settings" in text
    assert code == 1  # the registered version had other hooks
    code, text = doctor("--set", HOOKS, "--work-dir", "other", "--set", "seed=3")
    assert code == 1
    said = "the model registry has tiny, up to version 1; version 1 is by tiny of other settings"
    assert said in text
    assert "MLflow has a run tiny of other settings" in text
    assert text.count("seed: 0 -> 3") == 2
    assert "-> choose another name: --set exp_name=NAME" in text
    code, text = doctor("--set", HOOKS, "--set", "seed=3", "--set", "exp_name=variant")
    assert (code, "none by variant; the next one joins them" in text) == (0, True)


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """The kernel refuses to write more than 50 kB into a file, as a full disk would."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_disk_that_takes_no_checkpoint(doctor: Doctor, folder: Path) -> None:
    before = files(folder)
    with full_disk():
        code, text = doctor()
    assert code == 1
    assert "cannot be written in" in text
    assert "-> make room" in text
    assert files(folder) == before


def test_a_file_in_the_place_of_a_folder(doctor: Doctor, monkeypatch) -> None:
    monkeypatch.setenv("SDPOSE_REGISTRY", "tiny.yaml")
    mirror = ("--set", "checkpoint_config.mirror=tiny.yaml")
    code, text = doctor("--work-dir", "tiny.yaml/run", *mirror)
    assert code == 1
    for what in ("checkpoints", "the mirror", "the model registry"):
        assert f"problem  {what}: {Path('tiny.yaml').absolute()} is a file" in text


def test_quota_of_ceph(monkeypatch) -> None:
    """As its gateway answers HEAD of a bucket; there is none to be had here."""

    class Gateway(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("x-rgw-bytes-used", "600")
            self.send_header("x-rgw-quota-bucket-size", "1000")
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Gateway) as gateway:
        thread = threading.Thread(target=gateway.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{gateway.server_address[1]}"
        for name, value in S3Server("gateway", url).environment().items():
            monkeypatch.setenv(name, value)
        assert S3Store("bucket").room() == 400
        gateway.shutdown()


def test_the_step_that_is_tried(folder: Path) -> None:
    """On this machine's processor."""
    experiment = tiny("optimizer_config={cumulative_iters: 2, grad_clip: {max_norm: 1}}")
    trial = Trial(experiment, torch.device("cpu"))
    assert trial.train(2) > 0
    trial.evaluate()
    content = trial.checkpoint()
    assert content["optimizer"]["state"]
    assert content["training_state_dict"].keys() == content["state_dict"].keys()

    def peak_gib(samples: int) -> float:
        if samples > 20:
            raise torch.OutOfMemoryError
        return float(samples)

    assert largest_that_fits(16, peak_gib) == (16, 16.0)
    assert largest_that_fits(100, peak_gib) == (12, 12.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_on_a_gpu(doctor: Doctor) -> None:
    code, text = doctor()
    assert code == 0
    assert "batch: 4 samples fit: " in text
    code, text = doctor("--set", "data.samples_per_gpu=4000000")
    assert code == 1
    assert "batch: 4000000 samples do not fit: " in text
    assert "-> " in text.partition("do not fit")[2]


def test_checkpoints_that_are_kept() -> None:
    kept = load_experiment("maskedkd_v2")
    assert kept_checkpoints(kept) == 3 + 3
    every = load_experiment("maskedkd_v2", ["checkpoint_config.max_keep_ckpts=-1"])
    assert kept_checkpoints(every) == 30 + 3


def test_bad_use(doctor: Doctor) -> None:
    result = CliRunner().invoke(cli, ["doctor", "tiny.yaml", "--set", "optimizer.lrr=1"])
    assert "did you mean 'lr'" in str(result.exception)
