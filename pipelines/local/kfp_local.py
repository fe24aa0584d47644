"""Runs a pipeline on this machine, through kfp's own local runner."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kfp import local
from kfp.dsl.base_component import BaseComponent

from pipelines.console import say
from pipelines.local.gpus import Slots
from pipelines.local.kfp_private import cacheable_steps, number_of_steps, steps_started_by
from pipelines.local.processes import adopt_orphans, run_process, stop_descendants
from pipelines.local.step_cache import StepCache, StepCall
from pipelines.local.step_output import StepOutput
from sdpose.errors import FAILURE_FILE_VARIABLE, USER_ERROR_EXIT_CODE
from sdpose.locking import only_one

RUN_FILE = "run.json"  # what the last run was given, for its resumption


class StepError(Exception):
    """A step ended with an error; `user_message` is the whole story if its input was wrong."""

    def __init__(
        self, step: str, exit_code: int, tail: list[str], user_message: str | None
    ) -> None:
        super().__init__(step)
        self.step = step
        self.exit_code = exit_code
        self.tail = tail
        self.user_message = user_message

    def __str__(self) -> str:
        if self.user_message is not None:
            return f"{self.step}: {self.user_message}"
        reason = f"exit code {self.exit_code}"
        if self.exit_code > 128:  # the shell's way to say: a signal
            with contextlib.suppress(ValueError):
                reason = f"killed by {signal.Signals(self.exit_code - 128).name}"
        if reason.endswith("SIGKILL"):
            reason += " (out of memory, or by hand)"
        last_lines = "\n".join(f"    {line}" for line in self.tail) or "    (no output)"
        return f"step '{self.step}' failed ({reason}); its last lines:\n{last_lines}"


def run_local(
    pipeline: BaseComponent,
    arguments: dict[str, Any],
    folder: Path,
    *,
    cache: bool,
    parallel: int = 1,
) -> dict[str, float]:
    """Runs the steps one after the other.

    Whatever happens, no process that was started is left.

    Args:
        folder: for kfp's log, the artifacts that steps hand on (the last run's are removed), and
            what is kept of steps for the next run.
        cache: steps that have not changed are not run again.
        parallel: iterations of a loop that run at once; they share the machine's GPUs out.
    Returns:
        The seconds that each step took.
    Raises:
        StepError: a step failed.
    """
    taken = (
        f"another run uses this work dir now: {folder.parent}; wait for it, or choose another "
        "--work-dir or exp_name"
    )
    with (
        only_one(folder, otherwise=taken),
        tempfile.TemporaryDirectory(prefix="sdpose-") as scratch,
    ):
        kept = StepCache(folder / "steps")
        steps = _Steps(pipeline, arguments, Path(scratch), kept, cache, Slots(parallel))
        last = {"cwd": str(Path.cwd()), "arguments": arguments}
        (folder / RUN_FILE).write_text(json.dumps(last, indent=1) + "\n", encoding="utf-8")
        artifacts = folder / "artifacts"
        shutil.rmtree(artifacts, ignore_errors=True)
        adopt_orphans()
        try:
            with (
                (folder / "kfp.log").open("w") as log,
                contextlib.redirect_stdout(log),
                steps_started_by(steps.run, parallel),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")  # of images and GPUs that mean nothing here
                local.init(
                    runner=local.SubprocessRunner(use_venv=False),
                    pipeline_root=str(artifacts),
                    enable_caching=False,
                )
                _in_a_thread(lambda: pipeline(**arguments), steps.refuse)
        except RuntimeError:  # kfp's; it says no more than that a task failed
            if steps.failure is None:
                raise
            raise steps.failure from None
        finally:
            stop_descendants()
        return steps.seconds


def _in_a_thread(work: Callable[[], object], refuse: Callable[[], None]) -> None:
    """kfp waits for the iterations of a loop in a way that no signal interrupts; here, one does."""
    failures: list[BaseException] = []
    # Not Thread.join(): one that a signal's exception leaves takes the thread for ended, until
    # Python 3.13, and a second join() does not wait for it.
    ended = threading.Event()

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)
        finally:
            ended.set()

    try:
        threading.Thread(target=run, name="kfp", daemon=True).start()
        while not ended.wait(0.1):
            pass
    except BaseException:
        refuse()
        stop_descendants()
        ended.wait(10.0)
        raise
    for failure in failures:
        raise failure


class _Steps:
    """Starts the steps for kfp.local, and remembers how they ended."""

    def __init__(
        self,
        pipeline: BaseComponent,
        arguments: dict[str, Any],
        scratch: Path,
        kept: StepCache,
        cache: bool,
        slots: Slots,
    ) -> None:
        self.seconds: dict[str, float] = {}
        self.failure: StepError | None = None
        self._cacheable = cacheable_steps(pipeline)
        self._kept, self._cache, self._slots = kept, cache, slots
        self._scratch = scratch
        self._env = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(scratch),  # kfp's wrapper leaves a folder behind in there at every step
        }
        self._refused = False
        self._lock = threading.Lock()  # a person reads one line at a time
        self._count = itertools.count(1)
        self._total = number_of_steps(pipeline, arguments)

    def refuse(self) -> None:
        """Nothing more is started."""
        self._refused = True

    def run(self, full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        """Runs a step, or takes its earlier result; returns its exit code."""
        call = StepCall.of(full_command)
        slot = self._slots.take()
        try:
            if self._refused:
                return 1
            number = next(self._count)
            title = f"[{number}/{self._total}] {call.title}"
            say(title, bold=True)
            if self._take_earlier_result(call, title):
                return 0
            env = self._env | slot | (env_vars or {})
            return self._run(call, full_command, env, title, number)
        finally:
            self._slots.give_back(slot)

    def _take_earlier_result(self, call: StepCall, title: str) -> bool:
        if not (self._cacheable[call.name] and self._cache):
            return False
        reason = self._kept.reason_to_run(call)
        if reason is None:
            at = self._kept.restore(call)
            self.seconds[call.title] = 0.0
            say(
                f"{title}: nothing that it depends on has changed; its result of {at} is used",
                fg="green",
            )
            return True
        if reason:
            say(f"{title}: runs again: {reason}")
        return False

    def _run(
        self, call: StepCall, command: list[str], env: dict[str, str], title: str, number: int
    ) -> int:
        alone = self._slots.count == 1
        output = StepOutput(self._writer("" if alone else call.title))
        failure_file = self._scratch / f"failure_{number}.txt"
        start = time.monotonic()
        env = env | {FAILURE_FILE_VARIABLE: str(failure_file)}
        code = run_process(command, env, output, terminal=alone)
        taken = self.seconds[call.title] = round(time.monotonic() - start, 1)
        if self._refused:
            return code
        if code == 0:
            if self._cacheable[call.name]:
                self._kept.keep(call)
            say(f"{title}: done in {taken:.1f} s", fg="green")
            return 0
        say(f"{title}: failed after {taken:.1f} s", fg="red")
        message = None
        if code == USER_ERROR_EXIT_CODE and failure_file.exists():
            message = failure_file.read_text(encoding="utf-8")
        self.failure = StepError(call.title, code, output.tail, message)
        return code

    def _writer(self, name: str) -> Callable[[bytes], None]:
        """Writes to the real standard output (sys.stdout is kfp's log now). Of steps that run at
        once, whole lines, each with its step's name."""
        assert sys.__stdout__ is not None
        stream, pending = sys.__stdout__.buffer, bytearray()

        def write(data: bytes) -> None:
            if name:
                pending.extend(data)
                *lines, rest = bytes(pending).split(b"\n")
                pending[:] = rest
                data = b"".join(f"[{name}] ".encode() + line + b"\n" for line in lines)
            with self._lock:
                stream.write(data)
                stream.flush()

        return write
