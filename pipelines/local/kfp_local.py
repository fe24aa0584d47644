"""Runs the pipeline on this machine, through kfp's own local runner."""

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
from kfp.local import subprocess_task_handler
from kfp.local.orchestrator import enhanced_dag_orchestrator as dag_orchestrator

from pipelines.local.gpus import Slots
from pipelines.local.processes import StepOutput, adopt_orphans, run_process, stop_descendants
from pipelines.local.step_cache import StepCache, StepCall
from sdpose.errors import FAILURE_FILE_VARIABLE, USER_ERROR_EXIT_CODE
from sdpose.locking import only_one

Say = Callable[..., None]
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
            reason += ", by a person or for want of memory"
        last_lines = "\n".join(f"    {line}" for line in self.tail) or "    (no output)"
        return f"step '{self.step}' failed ({reason}); its last lines:\n{last_lines}"


def run_local(
    pipeline: BaseComponent,
    arguments: dict[str, Any],
    folder: Path,
    say: Say,
    *,
    cache: bool,
    parallel: int = 1,
) -> dict[str, float]:
    """Runs the steps one after the other; returns the seconds that each took.

    parallel: iterations of a loop that run at once; they share the machine's GPUs out.
    folder: for kfp's log, the artifacts that steps hand on (the last run's are removed), and what
    is kept of steps for the next run. cache: steps that have not changed are not run again.
    say: prints one line for people; takes `bold`, `fg` as click.style does.
    Raises StepError. Whatever happens, no process that was started is left.
    """
    taken = (
        f"another run uses this work dir now: {folder.parent}; wait for it, or choose another "
        "--work-dir or exp_name"
    )
    with (
        only_one(folder, otherwise=taken),
        tempfile.TemporaryDirectory(prefix="sdpose-") as scratch,
    ):
        steps = _Steps(
            pipeline,
            arguments,
            Path(scratch),
            say,
            StepCache(folder / "steps"),
            cache,
            Slots(parallel),
        )
        last = {"cwd": str(Path.cwd()), "arguments": arguments}
        (folder / RUN_FILE).write_text(json.dumps(last, indent=1) + "\n", encoding="utf-8")
        artifacts = folder / "artifacts"
        shutil.rmtree(artifacts, ignore_errors=True)
        adopt_orphans()
        try:
            with (folder / "kfp.log").open("w") as log, contextlib.redirect_stdout(log):
                _run_by_kfp(pipeline, arguments, artifacts, steps)
        except RuntimeError:  # kfp's; it says no more than that a task failed
            if steps.failure is None:
                raise
            raise steps.failure from None
        finally:
            stop_descendants()
        return steps.seconds


def _run_by_kfp(
    pipeline: BaseComponent, arguments: dict[str, Any], artifacts: Path, steps: _Steps
) -> None:
    # kfp.local reads a step's output line by line into print(), which breaks progress bars; it
    # drops the exit code; and it leaves the step running if this process is told to end. So steps
    # are started here, at the one function of kfp.local that starts them. It also runs two
    # iterations of a loop at most.
    original = subprocess_task_handler.run_local_subprocess
    subprocess_task_handler.run_local_subprocess = steps.run
    executor = dag_orchestrator.ParallelExecutor
    dag_orchestrator.ParallelExecutor = lambda: _Parallel(steps.slots.count)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of images and GPUs that mean nothing here
            local.init(
                runner=local.SubprocessRunner(use_venv=False),
                pipeline_root=str(artifacts),
                enable_caching=False,
            )
            _in_a_thread(lambda: pipeline(**arguments), steps.refuse)
    finally:
        subprocess_task_handler.run_local_subprocess = original
        dag_orchestrator.ParallelExecutor = executor


class _Parallel(dag_orchestrator.ParallelExecutor):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.max_workers = self.conservative_max = count


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
        say: Say,
        kept: StepCache,
        cache: bool,
        slots: Slots,
    ) -> None:
        self.seconds: dict[str, float] = {}
        self.failure: StepError | None = None
        self.slots = slots
        self._caching = _cacheable_steps(pipeline)
        self._kept = kept
        self._cache = cache
        self._scratch = scratch
        self._env = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(scratch),  # kfp's wrapper leaves a folder behind in there at every step
        }
        self._say = say
        self._refused = False
        self._lock = threading.Lock()  # a person reads one line at a time
        self._count = itertools.count(1)
        self._total = _number_of_steps(pipeline, arguments)

    def refuse(self) -> None:
        """Nothing more is started."""
        self._refused = True

    def run(self, full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        call = StepCall.of(full_command)
        slot = self.slots.take()
        try:
            return self._run(call, full_command, self._env | slot | (env_vars or {}))
        finally:
            self.slots.give_back(slot)

    def _run(self, call: StepCall, command: list[str], env: dict[str, str]) -> int:
        if self._refused:
            return 1
        number = next(self._count)
        title = f"[{number}/{self._total}] {call.title}"
        self._say(title, bold=True)
        cacheable = self._caching[call.name]
        if cacheable and self._cache:
            reason = self._kept.reason_to_run(call)
            if reason is None:
                at = self._kept.restore(call)
                self.seconds[call.title] = 0.0
                self._say(
                    f"{title}: nothing that it depends on has changed; its result of {at} is used",
                    fg="green",
                )
                return 0
            if reason:
                self._say(f"{title}: runs again: {reason}")
        alone = self.slots.count == 1
        output = StepOutput(self._writer("" if alone else call.title))
        failure_file = self._scratch / f"failure_{number}.txt"
        start = time.monotonic()
        env = env | {FAILURE_FILE_VARIABLE: str(failure_file)}
        code = run_process(command, env, output, terminal=alone)
        taken = self.seconds[call.title] = round(time.monotonic() - start, 1)
        if self._refused:
            return code
        if code == 0:
            if cacheable:
                self._kept.keep(call)
            self._say(f"{title}: done in {taken:.1f} s", fg="green")
            return 0
        self._say(f"{title}: failed after {taken:.1f} s", fg="red")
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


def _number_of_steps(pipeline: BaseComponent, arguments: dict[str, Any]) -> int:
    """A loop, over a parameter of the pipeline, has as many as that has items."""
    count = 0
    for task in pipeline.pipeline_spec.root.dag.tasks.values():
        items = task.parameter_iterator.items.input_parameter
        count += len(arguments[items.removeprefix("pipelinechannel--")]) if items else 1
    return count


def _cacheable_steps(pipeline: BaseComponent) -> dict[str, bool]:
    """Of every step, those in loops too, by its function's name: may its result be used again?"""
    spec = pipeline.pipeline_spec
    dags = [spec.root.dag, *(c.dag for c in spec.components.values() if c.HasField("dag"))]
    return {
        task.component_ref.name.removeprefix("comp-").replace("-", "_"): (
            task.caching_options.enable_cache
        )
        for dag in dags
        for task in dag.tasks.values()
    }
