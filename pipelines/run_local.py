"""Runs the pipeline on this machine, through kfp's own local runner."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kfp import local
from kfp.dsl.base_component import BaseComponent
from kfp.local import subprocess_task_handler

from pipelines.processes import StepOutput, adopt_orphans, run_process, stop_descendants
from pipelines.step_cache import StepCache, StepCall
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
    pipeline: BaseComponent, arguments: dict[str, Any], folder: Path, say: Say, *, cache: bool
) -> dict[str, float]:
    """Runs the steps one after the other; returns the seconds that each took.

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
        steps = _Steps(pipeline, Path(scratch), say, StepCache(folder / "steps"), cache)
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
    # are started here, at the one function of kfp.local that starts them.
    original = subprocess_task_handler.run_local_subprocess
    subprocess_task_handler.run_local_subprocess = steps.run
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of images and GPUs that mean nothing here
            local.init(
                runner=local.SubprocessRunner(use_venv=False),
                pipeline_root=str(artifacts),
                enable_caching=False,
            )
            pipeline(**arguments)
    finally:
        subprocess_task_handler.run_local_subprocess = original


class _Steps:
    """Starts the steps for kfp.local, and remembers how they ended."""

    def __init__(
        self, pipeline: BaseComponent, scratch: Path, say: Say, kept: StepCache, cache: bool
    ) -> None:
        self.seconds: dict[str, float] = {}
        self.failure: StepError | None = None
        self._tasks = pipeline.pipeline_spec.root.dag.tasks
        self._kept = kept
        self._cache = cache
        self._failure_file = scratch / "failure.txt"
        self._env = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            FAILURE_FILE_VARIABLE: str(self._failure_file),
            "TMPDIR": str(scratch),  # kfp's wrapper leaves a folder behind in there at every step
        }
        self._say = say

    def run(self, full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        call = StepCall.of(full_command)
        title = f"[{len(self.seconds) + 1}/{len(self._tasks)}] {call.name}"
        self._say(title, bold=True)
        cacheable = self._tasks[call.name.replace("_", "-")].caching_options.enable_cache
        if cacheable and self._cache:
            reason = self._kept.reason_to_run(call)
            if reason is None:
                at = self._kept.restore(call)
                self.seconds[call.name] = 0.0
                self._say(
                    f"{title}: nothing that it depends on has changed; its result of {at} is used",
                    fg="green",
                )
                return 0
            if reason:
                self._say(f"{title}: runs again: {reason}")
        output = StepOutput(self._write)
        start = time.monotonic()
        code = run_process(full_command, self._env | (env_vars or {}), output)
        self.seconds[call.name] = round(time.monotonic() - start, 1)
        if code == 0:
            if cacheable:
                self._kept.keep(call)
            self._say(f"{title}: done in {self.seconds[call.name]:.1f} s", fg="green")
            return 0
        self._say(f"{title}: failed after {self.seconds[call.name]:.1f} s", fg="red")
        message = None
        if code == USER_ERROR_EXIT_CODE and self._failure_file.exists():
            message = self._failure_file.read_text(encoding="utf-8")
        self.failure = StepError(call.name, code, output.tail, message)
        return code

    def _write(self, data: bytes) -> None:
        # Not sys.stdout, which is kfp's log now.
        assert sys.__stdout__ is not None
        sys.__stdout__.buffer.write(data)
        sys.__stdout__.buffer.flush()
