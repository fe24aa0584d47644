"""Makes written_by_8ec8903.tar.xz, which test_old_files.py reads, with the code of that commit.

    git worktree add /tmp/old 8ec8903
    cd tests/snapshots/old_files
    PYTHONPATH=/tmp/old python write.py /tmp/old written_by_8ec8903.tar.xz

The archive holds:

    data/            a synthetic COCO
    packs/           the pack of its training split
    run/             a training: the checkpoints of its first and of its last epoch, and its state
    work_dirs/       a run of the whole pipeline: work dir, step cache, and a registry with two
                     versions, of which production has had the first and staging the second
    queue/           what waits for MLflow
    machine.json     on which the numbers of run/ were computed
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import torch

HERE = Path(__file__).parent
PLACE = Path("/tmp/sdpose-8ec8903")  # the paths in the files begin with it
QUEUE = """
from pathlib import Path
from sdpose.tracking.delivery import Delivery

queue = Delivery(Path("queue/mlflow_queue.jsonl"), print)
queue.status("RUN_ID", "RUNNING")
for step in (1, 2, 3):
    queue.metrics("RUN_ID", {"train/loss": 1 / step, "learning_rate": 0.001}, step)
queue.metrics("RUN_ID", {"AP": 0.25}, 3)
queue.file("RUN_ID", Path("tiny.yaml"), "logs")
queue.status("RUN_ID", "FINISHED")
queue.close(0.0)
"""


def main(checkout: Path, archive: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    environment |= {"SDPOSE_APPROVER": "kim", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    environment.pop("MLFLOW_TRACKING_URI", None)

    def python(*arguments: object, **more: str) -> str:
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(
            command, cwd=PLACE, env=environment | more, capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"{command}: {done.stdout}{done.stderr}")
        return done.stdout

    def sdpose(*arguments: object) -> str:
        return python("-m", "sdpose", *arguments)

    PLACE.mkdir()
    try:
        shutil.copy2(HERE / "tiny.yaml", PLACE)
        sdpose("synth", "data", "--train", 5, "--val", 1)
        data = ("--data-root", "data")
        fast = ("--set", "data.pipeline=fast", "--set", f"data.pack_dir={PLACE}/packs")
        sdpose("prepare", "tiny.yaml", *data, *fast)
        sdpose("train", "tiny.yaml", *data, "--work-dir", "run")
        submit = ("--exp", "tiny.yaml", *data, "--yes")
        promoted = ("--promote", "production", "--set", "promotion.min_ap=0.0")
        python(checkout / "pipelines/submit.py", *submit, *promoted)
        tested = ("--out", "results.json", "--use-gt-bbox")
        sdpose("test", "tiny.yaml", "run/epoch_1.pth", *data, "--eval", "mAP", *tested)
        registry = ("--registry", "work_dirs/registry")
        figures = ("--metrics", "results.metrics.json")
        sdpose("registry", "register", "tiny", "run/epoch_1.pth", *figures, *registry)
        sdpose("registry", "promote", "tiny", 2, "--channel", "staging", *registry)
        (PLACE / "queue").mkdir()
        shutil.copy2(PLACE / "run/experiment.yaml", PLACE / "queue")
        python("-c", QUEUE, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
        for path in (*PLACE.rglob("epoch_2.pth"), *PLACE.glob("results*")):
            path.unlink()
        (PLACE / "machine.json").write_text(json.dumps(machine()) + "\n")
        with tarfile.open(archive, "w:xz", preset=9) as out:
            out.add(PLACE, arcname=".")
    finally:
        shutil.rmtree(PLACE)


def machine() -> dict[str, str]:
    """What the last bits of a training depend on."""
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {"torch": torch.__version__, "cpu": found[1] if found else ""}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
