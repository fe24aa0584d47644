"""Shares that know no locks, no sync of folders, no chmod, no hard links."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

CALLS = """
import json, sys
from pathlib import Path
from sdpose.storage import (open_store)
from sdpose.files import sha256_of_file
from sdpose.errors import UserError
store = open_store("store")
def tag(key): return store.read_tagged(key)[1]
source = Path("source")
answers = {}
for name, call in {
    "put": lambda: store.put("a/put", b"new"),
    "put_if_absent": lambda: store.put_if_absent("a/absent", b"new"),
    "swap": lambda: store.swap("a/old", b"new", tag("a/old")),
    "put_file": lambda: store.put_file(source, "a/file", sha256_of_file(source)),
    "get_file": lambda: store.get_file("a/file", Path("got")),
    "delete": lambda: store.delete("a/removed"),
}.items():
    try:
        answers[name] = call()
    except UserError as error:
        answers[name] = str(error)
print(json.dumps([answers, list(store.list(""))]))
"""


def run_on(kinds: str, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command whose processes find such a file system everywhere."""
    with tempfile.TemporaryDirectory() as odd:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env=environment_on(kinds, odd) | {"SDPOSE_CACHE": str(folder / "cache")},
            cwd=folder,
        )


def environment_on(kinds: str, odd: str) -> dict[str, str]:
    """odd: an empty folder, which must be there as long as processes are started."""
    program = Path(__file__).with_name("odd_file_system.py")
    Path(odd, "sitecustomize.py").write_text(f"import runpy\nrunpy.run_path({str(program)!r})\n")
    python_path = os.pathsep.join([odd, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "ODD_FILE_SYSTEM": kinds, "PYTHONPATH": python_path}


@pytest.mark.parametrize(
    ("kinds", "refused"),
    [
        ("", {}),
        ("no-folder-sync", {}),
        ("no-chmod", {}),
        ("no-locks", {"swap": "has no file locks"}),
        ("no-links", {"put_if_absent": "has no hard links"}),
        ("one-name", {"put_if_absent": "has no hard links"}),
        (
            "no-locks,no-folder-sync,no-chmod,no-links",
            {"swap": "has no file locks", "put_if_absent": "has no hard links"},
        ),
    ],
)
def test_a_folder_store_does_what_can_be_done_there(tmp_path, kinds, refused):
    (tmp_path / "store/a").mkdir(parents=True)
    for name in ("old", "removed"):
        (tmp_path / "store/a" / name).write_bytes(b"old")
    (tmp_path / "source").write_bytes(b"source")
    result = run_on(kinds, tmp_path, sys.executable, "-c", CALLS)
    assert result.returncode == 0, result.stderr
    answers, keys = json.loads(result.stdout)
    right = {"put_if_absent": True, "swap": True}
    for name, answer in answers.items():
        if name in refused:
            assert refused[name] in answer, answer
            assert str(tmp_path / "store") in answer or "store" in answer
        else:
            assert answer == right.get(name), f"{name}: {answer}"
    expected = {"a/put", "a/absent", "a/old", "a/file"}
    if "put_if_absent" in refused:
        expected.remove("a/absent")
    assert set(keys) == expected
    swapped = (tmp_path / "store/a/old").read_bytes()
    assert swapped == (b"old" if "swap" in refused else b"new")
    assert (tmp_path / "got").read_bytes() == b"source"
    left = [p.name for p in tmp_path.rglob("*") if ".new-" in p.name or ".part" in p.name]
    assert left == []


def test_a_disk_that_fails_is_no_odd_file_system(tmp_path):
    (tmp_path / "source").write_bytes(b"source")
    (tmp_path / "store/a").mkdir(parents=True)
    (tmp_path / "store/a/removed").write_bytes(b"old")
    (tmp_path / "store/a/old").write_bytes(b"old")
    result = run_on("io-error", tmp_path, sys.executable, "-c", CALLS)
    assert result.returncode == 0, result.stderr
    answers, _ = json.loads(result.stdout)
    for name in ("put", "put_if_absent", "swap", "put_file", "delete"):
        assert "Input/output error" in answers[name], f"{name}: {answers[name]}"


def test_downloads_at_once_without_locks(tmp_path, tmp_path_factory):
    """Processes of one machine that need the same shard: none may break another one's file."""
    program = (
        "import sys; from pathlib import Path; from sdpose.storage import open_store, s3_store\n"
        "store = open_store('store')\n"
        "for _ in range(40): store.get_file('large', Path('target'))\n"
    )
    (tmp_path / "store").mkdir()
    content = os.urandom(1 << 20)
    (tmp_path / "store/large").write_bytes(content)
    environment = environment_on("no-locks", str(tmp_path_factory.mktemp("odd")))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert (tmp_path / "target").read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store", "target"]


def test_the_probe_of_an_endpoint_needs_no_locks(tmp_path, connect, moto):
    connect(moto)
    program = (
        "import uuid; from sdpose.storage import open_store\n"
        f"store = open_store('s3://{moto.bucket}/' + uuid.uuid4().hex)\n"
        "print(store.put_if_absent('a', b'{}'))"
    )
    result = run_on("no-locks", tmp_path, sys.executable, "-c", program)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "True\n"


def test_one_fetch_at_a_time_is_said_to_be_unchecked(tmp_path):
    program = (
        "from pathlib import Path; from sdpose.locking import only_one\n"
        "from sdpose.log_setup import log_to_stderr\n"
        "log_to_stderr()\n"
        "with only_one(Path('folder'), otherwise='taken'): print('in')"
    )
    result = run_on("no-locks", tmp_path, sys.executable, "-c", program)
    assert (result.returncode, result.stdout) == (0, "in\n"), result.stderr
    assert "warning: the file system of folder has no locks" in result.stderr


@pytest.mark.parametrize("kinds", ["no-folder-sync", "no-locks,no-folder-sync,no-chmod,no-links"])
def test_a_work_dir_on_a_share(tmp_path, kinds):
    """The atomic write of checkpoints and experiment.yaml, and the lock of the work dir."""
    program = (
        "from pathlib import Path\n"
        "from sdpose.training.checkpoint import save_checkpoint, same_file\n"
        "from sdpose.outputs.work_dir_lock import locked\n"
        "import torch\n"
        "with locked(Path('run')):\n"
        "    checkpoint = {'state_dict': {'w': torch.ones(2)}, 'meta': {'format': 'sdpose/1'}}\n"
        "    save_checkpoint(Path('run/latest.pth'), checkpoint)\n"
        "    same_file(Path('run/latest.pth'), Path('run/best.pth'))\n"
        "print(torch.load('run/best.pth')['state_dict']['w'].tolist())"
    )
    result = run_on(kinds, tmp_path, sys.executable, "-c", program)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "[1.0, 1.0]\n"
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == ["best.pth", "latest.pth"]
