"""A record that was cut off, edited or written by somebody else is no reason for a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.launcher.kinds import PYTORCHJOB
from components.launcher.termination import ANNOTATION, RestartCounts
from components.profile import load_cluster
from pipelines.changes import changes
from pipelines.cluster.run_on_cluster import read_cluster
from pipelines.local.kfp_local import RUN_FILE
from pipelines.local.run_local import resume_here
from pipelines.local.step_cache import RECORD, StepCache, StepCall
from sdpose.errors import UserError

DAMAGED = [
    *(b"", b"{bad", b"[]", b"null", b"5", b'"x"', b"{}", b"[" * 100_000, b'{"a":' * 100_000),
    *(b"\xff\xfe{\x00", b'{"key": 5}', b'{"key": {}, "digests": 5}', b'{"key": {}, "digests": {}}'),
    b'{"key": {}, "digests": {}, "output": {"artifacts": 5}, "at": 1}',
    b'{"key": {}, "digests": {"x": "y"}, "output": {}, "at": "now"}',
]


def call_of(folder: Path) -> StepCall:
    outputs = {"outputFile": str(folder / "out.json")}
    inputs = {"parameterValues": {"name": "x"}}
    return StepCall.of(
        [
            *("--executor_input", json.dumps({"inputs": inputs, "outputs": outputs})),
            *("--function_to_execute", "train"),
        ]
    )


def test_a_step_whose_record_is_whole_need_not_run_again(tmp_path: Path) -> None:
    call, cache = call_of(tmp_path), StepCache(tmp_path / "cache")
    call.output_file.write_text("{}")
    cache.keep(call)
    assert cache.reason_to_run(call) is None
    assert cache.restore(call)


@pytest.mark.parametrize("record", DAMAGED, ids=range(len(DAMAGED)))
def test_a_step_with_a_damaged_record_runs_again(record: bytes, tmp_path: Path) -> None:
    call, cache = call_of(tmp_path), StepCache(tmp_path / "cache")
    call.output_file.write_text("{}")
    cache.keep(call)
    (tmp_path / "cache" / "train" / RECORD).write_bytes(record)
    assert cache.reason_to_run(call)
    cache.keep(call)
    assert cache.reason_to_run(call) is None


@pytest.mark.parametrize("record", DAMAGED, ids=range(len(DAMAGED)))
def test_a_run_whose_record_is_damaged_is_not_resumed(
    record: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "pipeline" / RUN_FILE
    path.parent.mkdir()
    path.write_bytes(record)
    with pytest.raises(UserError, match=RUN_FILE):
        resume_here(str(tmp_path))


def test_a_run_whose_folder_is_gone_says_so(tmp_path: Path) -> None:
    path = tmp_path / "pipeline" / RUN_FILE
    path.parent.mkdir()
    arguments = {"experiment": "exp_name: x"}
    path.write_text(json.dumps({"arguments": arguments, "cwd": str(tmp_path / "gone")}))
    with pytest.raises(UserError, match="No such file"):
        resume_here(str(tmp_path))


@pytest.mark.parametrize("stored", [*DAMAGED, b'{"a": 5}', b'{"a": {"crash": "x"}}'])
def test_counts_that_somebody_else_wrote_count_from_the_beginning(stored: bytes) -> None:
    text = stored.decode("utf-8", "replace")
    job: dict[str, Any] = {"metadata": {"annotations": {ANNOTATION: text}}}
    assert not RestartCounts(PYTORCHJOB, job).total


def test_counts_are_read_again() -> None:
    counts = {"worker-0": {"crash": 2}}
    job = {"metadata": {"annotations": {ANNOTATION: json.dumps(counts)}}}
    assert RestartCounts(PYTORCHJOB, job).counts == counts


@pytest.mark.parametrize(
    "value", ["a: " + "[" * 3000, "{" * 100_000 + ":", "a: &a [*a]", "a: 2001-99-99\n: ["]
)
def test_a_parameter_that_is_no_document_is_compared_as_text(value: str) -> None:
    (line,) = changes({"x": "a: 1"}, {"x": value})
    assert line.startswith("x: ")
    assert len(line) < 200


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ("namespace: café".encode("latin-1"), "save it as UTF-8"),
        ("namespace: x".encode("utf-16"), "image: required"),  # it was read
    ],
)
def test_profiles_in_other_encodings(profile: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_bytes(profile)
    for read in (load_cluster, lambda path: read_cluster(str(path), ())):
        with pytest.raises(UserError, match=message):
            read(path)
