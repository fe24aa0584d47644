"""Every command of README.md and the guides is executed, in the order of the pages.

In a folder where the names that they use stand for small things: the datasets, experiments and
sweeps are tiny, and the placeholders of README's list (EXP, CHECKPOINT, ...) are filled in. What
needs a cluster is parsed by the real command line; tests/pipelines and tests/cluster run it.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pipelines import submit
from sdpose.cli import cli
from sdpose.config import dump_experiment, load_experiment
from sdpose.models.weights import convert_weights
from sdpose.runner.train import train
from sdpose.tools.synthetic.dataset import write_synthetic_coco

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [
    REPOSITORY / "README.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
    *sorted((REPOSITORY / "docs/ko").glob("*.md")),
]
TINY = (
    "model.backbone={type: StemNet, width: 4, num_blocks: 1}",
    "data_cfg.image_size=[48, 64]",
    "data_cfg.heatmap_size=[12, 16]",
    "data.samples_per_gpu=4",
    "data.workers_per_gpu=0",
    "total_epochs=1",
)
TINY_HEAD = "{patch_size: [8, 6], dim: 16, depth: 1, heads: 2, cycle_num: 2}"
MADE_TINY = ("maskedkd_v2", "sdpose_s_v1", "quickstart")
MODEL = "sdpose_s_v1"  # the first base
RESULTS = "work_dirs/sdpose_s_v1_stemnet_coco_256x192_maskedkd_v2"
PLACEHOLDERS = {
    "/data/coco": "coco",
    "EXP": "maskedkd_v2",
    "D": "coco",
    "OUT": "synthetic",
    "CHECKPOINT": f"{RESULTS}/latest.pth",
    "F.json": "results.json",
    "FILE.json": "coco/annotations/person_keypoints_val2017.json",
    "WORK_DIR": RESULTS,
    "8": "2",
    "1000": "4",
    "100": "2",
    "MODEL": MODEL,
    "MODEL@1": f"{MODEL}@1",
    "MODEL@production": f"{MODEL}@production",
    "registry://MODEL/production": f"registry://{MODEL}/production",
}
# Not this program's: the shell's, Kubernetes', or of the project's Makefile (which is looked up).
OTHERS = ("source", "export", "eval", "kubectl", "cd", "for", "done", "docker", "pip", "unset")


def commands() -> list[str]:
    """Of all fenced bash blocks, each once; continued lines are one."""
    found: dict[str, None] = {}
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words:
                    found[shlex.join(words)] = None
    return list(found)


def needs_cluster(words: list[str]) -> bool:
    return "--cluster" in words or words[2:3] in (["resume"], ["cancel"]) or "KFP" in words[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("user")
    write_synthetic_coco(folder / "coco", num_train=8, num_val=3, seed=0)
    shutil.copytree(folder / "coco/val2017", folder / "photos")
    annotations = json.loads(
        (folder / "coco/annotations/person_keypoints_val2017.json").read_text()
    )
    boxes = [
        {"image_id": a["image_id"], "category_id": 1, "bbox": a["bbox"], "score": 0.9}
        for a in annotations["annotations"]
    ]
    detections = "coco/person_detection_results/COCO_val2017_detections_AP_H_56_person.json"
    (folder / detections).parent.mkdir()
    for path in ("boxes.json", detections):
        (folder / path).write_text(json.dumps(boxes))
    for name in ("pipelines", "k8s"):
        (folder / name).symlink_to(REPOSITORY / name)
    shutil.copytree(REPOSITORY / "pipelines/experiments", folder / "experiments")
    for name in MADE_TINY:
        changes: list[str] = [*TINY, f"model.keypoint_head.tokenpose_cfg={TINY_HEAD}"]
        experiment = load_experiment(name, changes)
        (folder / f"experiments/{name}.yaml").write_text(dump_experiment(experiment))
    (folder / "sweeps").mkdir()
    for name in ("maskedkd", "seeds"):
        text = f"name: {name}\nbase: maskedkd_v2\ngrid: {{optimizer.lr: [1e-3]}}\n"
        (folder / f"sweeps/{name}.yaml").write_text(text)
    (folder / "data").mkdir()
    (folder / "data/coco").symlink_to(folder / "coco")  # the experiments' default
    mmpose = REPOSITORY / "tests/tools/mmpose_import/mmpose"
    shutil.copytree(mmpose, folder / "mmpose")
    (folder / "their_config.py").write_text("_base_ = 'mmpose/coco/tiny.py'\n")
    leave_runs(folder)
    return folder


def leave_runs(folder: Path) -> None:
    """The runs of two sweeps, and the weights of one with the official names."""
    for name in ("seeds-seed_0", "batch-batch_32"):
        experiment = load_experiment(
            folder / "experiments/maskedkd_v2.yaml",
            [f"exp_name={name}", "log_config.hooks=[TextLoggerHook]"],
            work_dir=str(folder / "work_dirs" / name),
            data_root=str(folder / "coco"),
        )
        trained = train(experiment)
    convert_weights(trained.last_checkpoint, folder / "official.pth", layout="official")


@pytest.fixture(scope="module")
def problems(folder: Path) -> dict[str, str]:
    """What went wrong with each command, "" if nothing did. They are executed once, in the order in
    which a reader types them: a promotion needs what an earlier command has registered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SDPOSE_EXPERIMENTS", str(folder / "experiments"))
        patch.setenv("SDPOSE_SWEEPS", str(folder / "sweeps"))
        patch.setenv("SDPOSE_CACHE", str(folder / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")
        for name in ("MLFLOW_TRACKING_URI", "KFP_ENDPOINT", "SDPOSE_REGISTRY"):
            patch.delenv(name, raising=False)
        outcomes: dict[str, str] = {}
        for command in commands():
            if filled_in(command) not in outcomes:
                outcomes[filled_in(command)] = problem_of(filled_in(command))
        return {command: outcomes[filled_in(command)] for command in commands()}


def filled_in(command: str) -> str:
    """The command of a page with our values; two commands may become one."""
    return shlex.join(PLACEHOLDERS.get(word, word) for word in shlex.split(command))


@pytest.mark.timeout(1200)  # the first test executes all commands
@pytest.mark.parametrize("command", commands())
def test_command(command: str, problems: dict[str, str]) -> None:
    assert problems[command] == ""


def problem_of(command: str) -> str:
    try:
        execute(command)
    except (Exception, SystemExit):
        return traceback.format_exc()
    return ""


def execute(command: str) -> None:
    words = shlex.split(command)
    if words[0] == "make":
        targets = re.findall(r"^([\w./-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        assert words[1:] == [] or words[1] in targets
        return
    if words[0] in OTHERS or "=" in words[0]:
        return
    assert words[0] in ("sdpose", "python", "openssl"), f"nobody executes this command: {command}"
    if needs_cluster(words):
        assert words[1] == "pipelines/submit.py"
        parses(words[2:])
        return
    if words[:2] == ["sdpose", "ui"]:  # serves until Ctrl-C; test_tracking_pages.py runs it
        cli.commands["ui"].make_context("ui", words[2:])
        return
    words = [found for word in words for found in (sorted(glob.glob(word)) or [word])]
    if words[0] == "sdpose" and words[1] != "launch":
        result = CliRunner().invoke(cli, words[1:], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    else:
        run(words)


def parses(arguments: list[str]) -> None:
    others: dict[str, click.Command] = {"resume": submit.resume, "cancel": submit.cancel}
    command = others.get(arguments[0], submit.submit)
    command.make_context("submit.py", arguments[arguments[0] in others :])


def run(words: list[str]) -> None:
    programs = {"sdpose": [sys.executable, "-m", "sdpose"], "python": [sys.executable]}
    done = subprocess.run(
        [*programs.get(words[0], [words[0]]), *words[1:]],
        capture_output=True,
        text=True,
        timeout=240,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
