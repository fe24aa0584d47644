"""What a run prints: whole lines in its log, lines of 80 columns at a terminal."""

from __future__ import annotations

import os
import pty
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sdpose.evaluation import METRIC_NAMES, format_table
from sdpose.outputs.console import ConsoleSink
from sdpose.outputs.run_events import RunEvents
from sdpose.outputs.sink import Sink
from sdpose.runner.stop_signals import Interrupted
from sdpose.runner.train import train
from sdpose.training.events import EpochRecord, EvaluationRecord, TrainRecord

VALUES = dict.fromkeys(
    ["heatmap_loss", "vis_dist_loss", "kpt_dist_loss", "acc_pose", "loss", "grad_norm"],
    0.0012345678,
)
RECORDS = (
    TrainRecord(
        epoch=300,
        iteration_in_epoch=12340,
        iterations_per_epoch=12340,
        iteration=10**6,
        lr=1e-3,
        eta=200_000.0,
        time=0.123,
        data_time=0.1,
        memory=123_456,
        samples_per_second=12_345.6,
        values=VALUES,
    ),
    EpochRecord(300, 300, 10**6, 1e-3, 200_000.0, 10**7, VALUES),
    EvaluationRecord(
        300, 10**6, "ground truth", 200_000.0, dict.fromkeys(METRIC_NAMES, 0.12345), 0.1
    ),
)


def write(sink: Sink) -> None:
    for method, record in zip((sink.train, sink.epoch, sink.evaluation), RECORDS, strict=True):
        method(record)  # type: ignore[operator]


@pytest.fixture
def write_all(make) -> Callable[[], Path]:
    """Writes the records to a run's console and log; returns the log."""

    def run() -> Path:
        experiment = make("log_config.hooks=[TextLoggerHook]")
        events = RunEvents([ConsoleSink()])
        events.open(experiment, same_run=False, dataset_digest="0" * 64)
        write(events)
        events.close("FINISHED", None, 0.0)
        sys.stdout.flush()
        [log] = Path(experiment.work_dir).glob("*.log")
        return log

    return run


def test_a_terminal_gets_lines_of_80_columns(
    write_all: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(reader, "rb", buffering=0) as screen, os.fdopen(writer, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        write_all()
        lines = screen.read(10_000).decode().splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= 80, lines
    assert all(
        word in line
        for line, words in zip(lines, [("loss", "lr", "acc"), ("loss",), ("AP", "AR")], strict=True)
        for word in words
    )


def test_a_file_and_the_log_get_all_figures(
    write_all: Callable[[], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    log = write_all()
    printed = capsys.readouterr().out.splitlines()
    logged = log.read_text(encoding="utf-8").splitlines()[-3:]
    assert [line.partition(" - sdpose - INFO - ")[2] for line in logged] == printed
    assert all(name in printed[0] for name in VALUES)
    assert all(name in printed[2] for name in METRIC_NAMES)


def test_the_table_of_ap_fits_into_80_columns() -> None:
    table = format_table(dict.fromkeys(METRIC_NAMES, 1.0))
    assert max(map(len, table.splitlines())) <= 80


def test_ctrl_c_before_the_first_step_is_answered(
    make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ctrl_c(*_: object, **__: object) -> None:
        raise Interrupted(signal.SIGINT)  # as StopSignals does; its deadline would end pytest

    monkeypatch.setattr("sdpose.runner.train.begin", ctrl_c)
    with pytest.raises(Interrupted) as ended:
        train(make())
    assert ended.value.code == 130
    assert "stopped before the first step; the same command starts again" in capsys.readouterr().out
