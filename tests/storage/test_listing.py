"""A folder that cannot be listed is an error, never an empty answer."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from unprivileged import unprivileged

from sdpose.errors import UserError
from sdpose.storage import StoreUnavailableError
from sdpose.storage.file_store import FileStore

LISTS = """
import sys
from datetime import timedelta
from pathlib import Path
from sdpose.errors import UserError
from sdpose.files import matching
from sdpose.storage import open_store
store = open_store(sys.argv[1])
for what, call in {
    "list": lambda: list(store.list("models")),
    "list below": lambda: list(store.list("models/m/versions")),
    "sweep": lambda: store.sweep(timedelta()),
    "exists": lambda: store.exists("models/m/versions/1.json"),
    "read": lambda: store.read("models/m/versions/1.json"),
    "digest": lambda: store.digest("models/m/versions/1.json"),
    "get_file": lambda: store.get_file("models/m/versions/1.json", Path(sys.argv[1], "../got")),
    "delete": lambda: store.delete("models/m/versions/1.json"),
    "put_file": lambda: store.put_file(Path(__file__), "models/m/versions/1.json", "0" * 64),
    "matching": lambda: matching(Path(sys.argv[1], "models/m"), "*"),
}.items():
    try:
        print(f"{what}: {call()!r}")
    except UserError as error:
        print(f"{what}: {type(error).__name__}: {error}")
"""


@pytest.fixture
def root(tmp_path):
    store = FileStore(tmp_path / "store")
    store.put("models/m/versions/1.json", b"{}")
    store.put("models/other/versions/1.json", b"{}")
    return store.root


@pytest.mark.parametrize("closed", ["models/m", "models"])
def test_a_folder_without_permission_is_no_empty_folder(root, tmp_path, closed):
    program = tmp_path / "lists.py"
    program.write_text(LISTS)
    (root / closed).chmod(0o000)
    command = unprivileged(sys.executable, str(program), str(root))
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        (root / closed).chmod(0o755)
    assert result.returncode == 0, result.stderr
    answers = dict(line.split(": ", 1) for line in result.stdout.splitlines())
    assert len(answers) == 10
    for what, answer in answers.items():
        assert "Error: " in answer, f"{what}: {answer}"
        assert "Permission denied" in answer, f"{what}: {answer}"
        assert "does not exist" not in answer
    for what in ("list", "list below", "sweep", "exists"):
        assert answers[what].startswith("StoreUnavailableError: "), answers[what]
    assert (root / "models/m/versions/1.json").read_bytes() == b"{}"


def test_what_is_not_there_is_empty(tmp_path):
    store = FileStore(tmp_path / "none")
    assert list(store.list("")) == []
    assert list(store.list("models/m")) == []
    assert store.sweep(timedelta()) == ()
    store.put("a", b"")
    assert list(store.list("a")) == []  # an object is no folder


@pytest.mark.parametrize("place", [".", "", "store", "./store/../store"])
def test_keys_do_not_depend_on_how_the_folder_is_written(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    store = FileStore(Path(place))
    keys = ["models/m/1.json", "models/m/versions/1.json", "x.json"]
    for key in keys:
        store.put(key, b"{}")
    assert list(store.list("")) == keys
    for prefix in ("models", "models/", "models/m"):
        assert list(store.list(prefix)) == keys[:2]
    assert store.sweep(timedelta(hours=-1)) == ()


def test_links_are_listed_as_they_are_read(root, tmp_path):
    """A model that an operator has moved to another disk."""
    (root / "models/m").rename(tmp_path / "moved")
    (root / "models/m").symlink_to(tmp_path / "moved")
    store = FileStore(root)
    assert store.read("models/m/versions/1.json") == b"{}"
    assert list(store.list("models")) == [
        "models/m/versions/1.json",
        "models/other/versions/1.json",
    ]


@pytest.mark.parametrize("place", ["models/m", "models", ""])
def test_a_link_to_a_disk_that_is_not_mounted_is_an_error(root, tmp_path, place):
    path = root / place
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "not mounted")
    with pytest.raises(UserError, match=r"cannot list|cannot be seen"):
        list(FileStore(root).list("models/m"))


def test_a_link_in_a_circle_is_an_error(root):
    (root / "models/m/again").symlink_to(root / "models")
    with pytest.raises(StoreUnavailableError, match=r"cannot list .*Too many levels"):
        list(FileStore(root).list(""))


def test_gc_deletes_nothing_when_a_model_cannot_be_listed(root, tmp_path):
    """The finding: the weights of a version in production were deleted."""
    program = (
        "import sys; from datetime import timedelta; from sdpose.registry.gc import gc; "
        "from sdpose.errors import user_errors; from sdpose.storage import open_store\n"
        "with user_errors(): print(gc(open_store(sys.argv[1]), grace=timedelta(), dry_run=False))"
    )
    blob = root / "blobs/sha256" / ("a" * 64)
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"weights")
    closed = root / "models/m"
    closed.chmod(0o000)
    command = unprivileged(sys.executable, "-c", program, str(root))
    try:
        for _ in range(2):
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            assert result.returncode == 2, result.stdout + result.stderr
            assert "Permission denied" in result.stderr
            assert "Traceback" not in result.stderr
    finally:
        closed.chmod(0o755)
    assert blob.is_file()


def test_a_work_dir_that_cannot_be_listed_is_not_empty(tmp_path):
    """Else a run starts from the beginning, over the checkpoints of another one."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "epoch_1.pth").write_bytes(b"")
    program = (
        "import sys; from pathlib import Path; from sdpose.errors import user_errors\n"
        "from sdpose.training.checkpoint import newest_checkpoint\n"
        "with user_errors(): print(newest_checkpoint(Path(sys.argv[1])))"
    )
    folder.chmod(0o300)  # files can be opened and made, not listed
    command = unprivileged(sys.executable, "-c", program, str(folder))
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        folder.chmod(0o755)
    assert result.returncode == 2, result.stdout + result.stderr
    assert f"cannot list {folder}: Permission denied" in result.stderr


def test_nothing_that_decides_lists_with_functions_that_hide_errors():
    """os.walk, rglob and glob leave out what cannot be listed; `sdpose.files` does not."""
    repository = Path(__file__).resolve().parents[2]
    # What these find is shown, or suggested, and nothing is decided by it.
    only_shown = {
        "sdpose/config/load.py",
        "sdpose/cli/completion.py",
        "sdpose/comparison/runs.py",
        "sdpose/report/run_files.py",
        "sdpose/report/history.py",
    }
    found = [
        f"{path.relative_to(repository)}:{number}: {line.strip()}"
        for package in ("sdpose", "components", "pipelines")
        for path in sorted((repository / package).rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if any(f"{name}(" in line for name in ("os.walk", ".rglob", ".glob", "glob.glob", "iglob"))
        and str(path.relative_to(repository)) not in only_shown
    ]
    assert found == []
