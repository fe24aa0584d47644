"""Where reference numbers and photos are, and in which order the tests run.

Numbers of the official code and schemas of Kubeflow are below tests/ (tests/shipped.py). Photos are
beside the project (`../shared`, or $SDPOSE_SHARED): without them the tests that need them are
skipped, but in CI they must be there.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from servers.browser import chromium  # noqa: F401 (fixtures)
from servers.kfp import kfp_server, kfp_version  # noqa: F401 (fixtures)
from servers.mlflow import mlflow_server, own_mlflow_server  # noqa: F401 (fixtures)
from servers.objects import image_server, object_server  # noqa: F401 (fixtures)
from servers.postgres import postgres  # noqa: F401 (a fixture)
from servers.s3 import moto, swift  # noqa: F401 (fixtures)

from sdpose.log_setup import log_to, log_to_stderr
from tests.long_suites import LIMIT_S, LONG_SUITES, unnamed_long_tests
from tests.shipped import KFP_API, REFERENCE

log_to_stderr()  # as every entry point does

# A shared machine may pause a test at any moment.
settings.register_profile("shared-machine", deadline=None)
settings.load_profile("shared-machine")

# Before PyTorch is imported: two processes of tests with two threads each spin for one another on
# two cores; a training took four times the CPU, and on a busy machine ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell's background jobs ignore Ctrl-C, and so would all processes that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("SDPOSE_SHARED", REPOSITORY.parent / "shared"))


def signals_go_to() -> tuple[object, int]:
    """The handler of SIGTERM, and the pipe that the interpreter writes every signal to."""
    pipe = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(pipe)
    return signal.getsignal(signal.SIGTERM), pipe


@pytest.fixture(autouse=True)
def no_stopped_training() -> Iterator[None]:
    """A training that was asked to stop ends its process when its grace is over: pytest's, and if
    its pipe is left, at a SIGTERM of a later test."""
    before = signals_go_to()
    yield
    assert signals_go_to() == before, "stop it in a process of its own: forked.py"


# What `--fast` does without: servers and clusters, root, a browser, photos, and trainings in
# processes of their own. A test needs one if a fixture or a parameter of it has that name.
NOT_FAST = {
    *("kfp_server", "kube", "mlflow_server", "own_mlflow_server", "postgres", "postgresql"),
    *("image_server", "moto", "object_server", "s3", "server", "swift"),
    *("chromium", "may_mount", "may_unshare"),
    *("cases", "coco_4", "coco_mini", "official_pixels"),
    *("launch", "problems", "run_folder", "submit"),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fast", action="store_true", help="leave out what needs a server, root, photos or minutes"
    )
    parser.addoption(
        "--order-seed", type=int, help="run the files, and the tests of each, in this random order"
    )


def pytest_report_header(config: pytest.Config) -> str | None:
    seed = config.getoption("order_seed")
    return None if seed is None else f"random order: --order-seed {seed}"


def needs(item: pytest.Item) -> set[str]:
    """The names in NOT_FAST that a test uses, and "slow" if it is marked so."""
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    names = {
        *getattr(item, "fixturenames", ()),
        *(v.lower() for v in parameters if isinstance(v, str)),
    }
    return names & NOT_FAST | {mark.name for mark in item.iter_markers("slow")}


def pytest_fixture_setup(fixturedef: Any, request: pytest.FixtureRequest) -> None:
    if request.config.getoption("fast") and fixturedef.argname in NOT_FAST:
        pytest.skip(f"{fixturedef.argname} is left out by --fast")  # asked for by getfixturevalue


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("fast"):
        left_out = [item for item in items if needs(item)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not needs(item)]
    seed = config.getoption("order_seed")
    if seed is None:
        place = {REPOSITORY / name: n for n, name in enumerate(LONG_SUITES)}
        items.sort(key=lambda item: place.get(item.path, len(place)))
        return
    # Each process of xdist collects for itself: the order may depend on the seed alone.
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    order = random.Random(seed)
    paths = sorted(files)
    order.shuffle(paths)
    for path in paths:
        order.shuffle(files[path])
    items[:] = [item for path in paths for item in files[path]]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Names the tests that should be faster; a busy machine is no failure."""
    reports = [report for group in terminalreporter.stats.values() for report in group]
    if long := unnamed_long_tests(reports):
        terminalreporter.section(f"over {LIMIT_S:.0f} s, and in no suite of tests/long_suites.py")
        for seconds, test in long:
            terminalreporter.line(f"{seconds:.0f} s  {test}")


def shared_path(*parts: str) -> Path:
    path = SHARED.joinpath(*parts)
    if not path.exists():
        message = f"shared test data not found: {path}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return path


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small inputs that real users have, a folder NN-name each: a test may change its own copy."""
    folder = tmp_path_factory.mktemp("cases")
    script = shared_path("cases", "data", "make_all.py")
    environment = os.environ | {"CASES": str(folder)}
    subprocess.run(
        [sys.executable, script], env=environment, check=True, capture_output=True, timeout=300
    )
    return folder


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """What a test's entry points write to the environment (`clean_environment`) goes with it."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys() - {"PYTEST_CURRENT_TEST"}:
        del os.environ[name]
    os.environ.update({n: v for n, v in before.items() if n != "PYTEST_CURRENT_TEST"})


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What the parts of a run log, as a training shows it."""
    lines: list[str] = []
    with log_to(lines.append):
        yield lines


@pytest.fixture(scope="session")
def may_mount() -> None:
    """For tests that give a process a small /dev/shm of its own."""
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/tmp"]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=300)
    except (OSError, subprocess.CalledProcessError) as error:
        message = f"a /dev/shm of 1 MB needs root on Linux with CAP_SYS_ADMIN: {error}"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(message)


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """Numbers made with the official code; its README describes every array."""
    return REFERENCE


@pytest.fixture(scope="session")
def official_pixels() -> Mapping[str, np.ndarray]:
    """data.npz with the arrays that hold pixels of photos."""
    return np.load(shared_path("reference", "data.npz"))


@pytest.fixture(scope="session")
def coco_mini() -> Path:
    """A small real COCO: 40 train and 43 val images in the true layout, no detection file."""
    return shared_path("data", "coco-mini")


@pytest.fixture(scope="session")
def kfp_api() -> Path:
    """What releases of KFP's server declare as their REST interface."""
    return KFP_API


@pytest.fixture(scope="session")
def coco_4() -> Path:
    """Four real val images with annotations and a detection file."""
    return shared_path("data", "coco-4")
