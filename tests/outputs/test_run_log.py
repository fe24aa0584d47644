"""What the parts of a run log: on standard output and in the run's log files, once."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from sdpose.log_setup import RUN_LOGGERS, log_to
from sdpose.outputs.console import ConsoleSink
from sdpose.outputs.run_events import RunEvents

logger = logging.getLogger("sdpose.outputs.somewhere")


def test_the_log_of_a_run_is_in_its_output_and_its_log_file(
    make, capfd: pytest.CaptureFixture[str]
) -> None:
    experiment = make("log_config.hooks=[TextLoggerHook]")
    events = RunEvents([ConsoleSink()])
    with log_to(events.say):
        logger.info("before the sinks are open")
        events.say("the loop says it")
        events.open(experiment, same_run=False, dataset_digest="")
        thread = threading.Thread(target=logger.warning, args=["from a thread \x1b[2J"])
        thread.start()
        thread.join()
        logger.info("the key is https://user:secret@host/path")
        logger.error("an error")
        events.close("FINISHED", None, 0.0)
        logger.warning("the last upload failed")
    logger.info("after the run")

    shown = [
        "before the sinks are open",
        "the loop says it",
        r"warning: from a thread \u001b[2J",
        "the key is https://***@host/path",
        "warning: the last upload failed",
    ]
    out, err = capfd.readouterr()
    assert out.splitlines() == shown
    assert err.splitlines() == ["error: an error", "after the run"]
    (log,) = Path(str(experiment.work_dir)).glob("*.log")
    lines = [line.partition(" - INFO - ")[2] for line in log.read_text().splitlines()]
    assert [line for line in lines if line] == shown[:-1]


def test_blocks_inside_of_one_another(capfd: pytest.CaptureFixture[str]) -> None:
    outer: list[str] = []
    inner: list[str] = []
    with log_to(outer.append):
        with log_to(inner.append):
            logger.info("1")
        logger.info("2")
    logger.info("3")
    assert (outer, inner) == (["1", "2"], ["1"])
    assert capfd.readouterr().err == "3\n"
    for name in RUN_LOGGERS:
        there = logging.getLogger(name)
        assert (there.handlers, there.level, there.propagate) == ([], logging.NOTSET, True)


def test_a_log_file_that_cannot_be_written_says_so_once(
    make, capfd: pytest.CaptureFixture[str]
) -> None:
    """The message about the log file goes into the log file, too."""
    experiment = make("log_config.hooks=[TextLoggerHook]")
    work_dir = Path(str(experiment.work_dir))
    work_dir.mkdir(parents=True)
    events = RunEvents([ConsoleSink()])
    with log_to(events.say):
        events.open(experiment, same_run=False, dataset_digest="")
        (log,) = work_dir.glob("*.log")
        text_sink = next(sink for sink in events._sinks if hasattr(sink, "_log"))
        file = text_sink._log._file
        text_sink._log._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
        for number in range(3):
            events.say(f"line {number}")
        text_sink._log._file.close()
        text_sink._log._file = file
        events.say("line 3")
        events.close("FINISHED", None, 0.0)
    out, err = capfd.readouterr()
    problem = f"warning: cannot write {log}: No space left on device"
    assert (out.count(problem), err) == (1, "")
    assert f"{log} can be written again; nothing is missing in it" in out
    text = log.read_text()
    assert [text.count(f" - INFO - line {number}\n") for number in range(4)] == [1, 1, 1, 1]
    assert text.count(problem) == 1
