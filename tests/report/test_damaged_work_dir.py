"""A work dir with damaged or foreign files in it is reported on, or refused in one message."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdpose.comparison.runs import compare
from sdpose.config import dump_experiment, load_experiment
from sdpose.errors import UserError
from sdpose.report.history import read_history
from sdpose.report.run_files import gather
from sdpose.runner.experiment_changes import differences
from sdpose.training.paths import EXPERIMENT_FILE

DAMAGED = [
    *(b"", b"{bad", b"[]", b"null", b"5", b'["x"]', b"[" * 100_000, b"\xff\xfe{\x00", b"\xe9"),
    b'{"AP": 1' + b"0" * 5000 + b"}",
]


@pytest.fixture
def work_dir(tmp_path: Path) -> Path:
    text = dump_experiment(load_experiment("quickstart"))
    (tmp_path / EXPERIMENT_FILE).write_text(text, encoding="utf-8")
    return tmp_path


def test_rows_of_a_log_that_are_none_are_left_out(work_dir: Path) -> None:
    rows = [
        *DAMAGED,
        b'{"mode": "train"}',
        b'{"mode": "train", "epoch": [], "iter": 1}',
        b'{"mode": "val", "epoch": 1}',
        b'{"mode": "val", "epoch": 1, "AP": "high"}',
        b'{"mode": "train", "epoch": 1, "iter": 5, "loss": 0.5}',
        b'{"mode": "val", "epoch": 1, "AP": 0.5}',
    ]
    (work_dir / "20260101_000000.log.json").write_bytes(b"\n".join(rows))
    history = read_history(work_dir)
    assert [row["iter"] for row in history.train] == [5]
    assert [row["AP"] for row in history.evaluations] == [0.5]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_results_are_refused_in_one_message(content: bytes, work_dir: Path) -> None:
    (work_dir / "summary.json").write_bytes(content)
    assert gather(work_dir).summary == {}
    results = work_dir / "results.json"
    results.write_bytes(content)
    results.with_suffix(".metrics.json").write_bytes(content)
    with pytest.raises(UserError, match=r"results\.(json|metrics\.json)"):
        gather(work_dir, results=results)


@pytest.mark.parametrize("content", [*DAMAGED, b"a: &a [*a]", b"{a: " * 3000])
def test_a_damaged_experiment_is_refused_in_one_message(content: bytes, work_dir: Path) -> None:
    (work_dir / EXPERIMENT_FILE).write_bytes(content)
    with pytest.raises(UserError, match=EXPERIMENT_FILE):
        gather(work_dir)
    with pytest.raises(UserError, match=EXPERIMENT_FILE):
        compare([str(work_dir)])
    assert differences(content, load_experiment("quickstart"))


def test_a_whole_work_dir_is_read(work_dir: Path) -> None:
    (work_dir / "summary.json").write_text(json.dumps({"AP": 0.5}))
    assert gather(work_dir).summary == {"AP": 0.5}
