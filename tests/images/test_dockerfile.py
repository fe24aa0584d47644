"""What keeps the images honest where none are built: the Dockerfile's promises, checked cheaply.

`make images-check` builds and runs them.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

IMAGES = {"trainer", "pipeline", "mlflow"}


@pytest.fixture(scope="module")
def stages(repository: Path) -> dict[str, tuple[str, list[list[str]]]]:
    """Name of a stage -> what it is FROM, and its instructions as words."""
    text = (repository / "images/Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"\s*\\\n\s*", " ", re.sub(r"(?m)^\s*#.*\n", "", text))
    found: dict[str, tuple[str, list[list[str]]]] = {}
    for instruction in filter(None, map(str.split, text.splitlines())):
        if instruction[0] == "FROM":
            _, parent, _, name = instruction
            found[name] = (parent, [])
        elif found:
            found[name][1].append(instruction)
    return found


def test_hadolint_finds_nothing(repository: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [hadolint, repository / "images/Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_what_is_copied_from_the_repository_is_in_git_and_in_the_context(
    repository: Path, stages: dict[str, tuple[str, list[list[str]]]]
) -> None:
    copied = {
        source
        for _, instructions in stages.values()
        for words in instructions
        if words[0] == "COPY" and not words[1].startswith("--from")
        for source in words[1:-1]
    }
    assert {"sdpose", "components", "pipelines", "requirements.lock"} <= copied
    ignore = (repository / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignore
    assert {line[1:] for line in ignore if line.startswith("!")} == copied
    tracked = subprocess.run(
        ["git", "ls-files", "--error-unmatch", *copied],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert tracked.returncode == 0, tracked.stderr


def test_the_last_stages_install_nothing_and_are_not_root(
    stages: dict[str, tuple[str, list[list[str]]]],
) -> None:
    parent, runtime = stages["runtime"]
    assert parent == "${BASE_IMAGE}"
    assert {words[0] for words in runtime} == {"ENV", "WORKDIR", "USER"}
    [user] = [words[1] for words in runtime if words[0] == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    for name in IMAGES:
        parent, instructions = stages[name]
        assert parent == "runtime"
        assert {words[0] for words in instructions} <= {
            *("COPY", "ENV", "CMD", "EXPOSE", "ARG", "LABEL")
        }
        assert all(words[1].startswith("--from=") for words in instructions if words[0] == "COPY")
        [label] = [words for words in instructions if words[0] == "LABEL"]
        assert "org.opencontainers.image.revision=$GIT_COMMIT" in label


@pytest.mark.parametrize("image", sorted(IMAGES))
def test_the_lock_says_the_version_of_all_that_is_installed(
    repository: Path, stages: dict[str, tuple[str, list[list[str]]]], image: str
) -> None:
    lock = (repository / "requirements.lock").read_text(encoding="utf-8").splitlines()
    locked = {canonicalize_name(Requirement(line).name) for line in lock}
    assert all("==" in line for line in lock)
    needed = _with_dependencies(_installed_in(repository, stages, image))
    assert needed <= locked, needed - locked


@pytest.mark.slow
def test_steps_run_on_what_the_pipeline_image_has(
    repository: Path, stages: dict[str, tuple[str, list[list[str]]]]
) -> None:
    """All else that is installed here is hidden from them."""
    there = _with_dependencies(_installed_in(repository, stages, "pipeline")) | {"sdpose"}
    hidden = [
        module
        for module, packages in metadata.packages_distributions().items()
        if not {canonicalize_name(package) for package in packages} & there
    ]
    assert {"torch", "tensorboard", "sklearn", "pandas"} <= set(hidden)
    program = f"""
import sys
sys.modules.update(dict.fromkeys({hidden!r}))
import components.prepare_coco, sdpose.prepare.dataset
import pipelines.cluster.preflight.step, pipelines.cluster.preflight
from mlflow import MlflowClient
MlflowClient("http://127.0.0.1:9")
import sdpose.cli
sys.argv = ["sdpose", "train", "quickstart"]
sdpose.cli.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=repository, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "trainer image" in done.stderr
    assert "Traceback" not in done.stderr


def _installed_in(
    repository: Path, stages: dict[str, tuple[str, list[list[str]]]], image: str
) -> set[str]:
    """The names that the Dockerfile gives to pip."""
    [run] = [words[1:] for words in stages[f"{image}-packages"][1] if words[0] == "RUN"]
    if "&&" in run:
        arguments = run[run.index("requirements.py") + 1 : run.index(">")]
        listed = subprocess.run(
            [sys.executable, repository / "images/requirements.py", *arguments],
            cwd=repository,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        return set(listed)
    return {word.strip("'") for word in run[1:]}


def _with_dependencies(names: Iterable[str]) -> set[str]:
    """All that pip installs for them, by what is installed here."""
    found: set[str] = set()
    waiting = [Requirement(name) for name in names]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        key = f"{name}[{','.join(sorted(wanted.extras))}]"
        if key in found:
            continue
        found |= {name, key}
        for line in metadata.requires(name) or []:
            needed = Requirement(line)
            extras = wanted.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in extras):
                waiting.append(needed)
    return {each for each in found if not each.endswith("]")}
