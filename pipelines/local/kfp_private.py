"""Everything of kfp that is not its public API and that a run on this machine leans on.

kfp.local reads a step's output line by line into print(), which breaks progress bars; it drops the
exit code; it leaves the step running if this process is asked to end; and it runs at most two
iterations of a loop at once. So steps are started here, at the one function of kfp.local that
starts them.

Checked with kfp 2.17. If an upgrade has moved a name: `SubprocessTaskHandler.run` in
kfp/local/subprocess_task_handler.py calls the function that starts a step, and the DAG orchestrator
makes one ParallelExecutor for each loop.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from kfp.dsl.base_component import BaseComponent
from kfp.local import subprocess_task_handler
from kfp.local.orchestrator import enhanced_dag_orchestrator

# Starts a step: its command, the variables beside our own; returns the exit code.
StartStep = Callable[[list[str], dict[str, str] | None], int]

# What kfp's executor prints before and after a component's own output.
EXECUTOR = b"[KFP Executor "
EXECUTOR_CHATTER = re.compile(
    rb"\[KFP Executor [^\]]*\]: (Looking for component|Loading KFP component|Got executor_input"
    rb"|Wrote executor output|Did not write output)"
)
EXECUTOR_INPUT = b"Got executor_input"  # whose lines follow, up to a "}" of its own
EXECUTOR_PREFIX = re.compile(rb"\[KFP Executor [0-9,:\- ]* (\w+)\]: ")


@contextlib.contextmanager
def steps_started_by(start: StartStep, parallel: int) -> Iterator[None]:
    """Inside, kfp.local starts its steps by `start`, and so many iterations of a loop at once."""

    class Executor(enhanced_dag_orchestrator.ParallelExecutor):
        def __init__(self) -> None:
            super().__init__()
            self.max_workers = self.conservative_max = parallel

    original = subprocess_task_handler.run_local_subprocess
    executor = enhanced_dag_orchestrator.ParallelExecutor
    subprocess_task_handler.run_local_subprocess = start
    enhanced_dag_orchestrator.ParallelExecutor = Executor
    try:
        yield
    finally:
        subprocess_task_handler.run_local_subprocess = original
        enhanced_dag_orchestrator.ParallelExecutor = executor


def read_command(command: list[str]) -> tuple[str, dict[str, Any], list[str]]:
    """Of a step's command: the function's name, the executor's input, and all the rest, which is
    the step's code. (The folder that the shell unpacks it to differs each time.)"""
    position = command.index("--executor_input") + 1
    name = command[command.index("--function_to_execute") + 1]
    rest = [part for index, part in enumerate(command) if index != position]
    return name, json.loads(command[position]), rest


def number_of_steps(pipeline: BaseComponent, arguments: dict[str, Any]) -> int:
    """A loop, over a parameter of the pipeline, has as many as that has items."""
    count = 0
    for task in pipeline.pipeline_spec.root.dag.tasks.values():
        items = task.parameter_iterator.items.input_parameter
        count += len(arguments[items.removeprefix("pipelinechannel--")]) if items else 1
    return count


def cacheable_steps(pipeline: BaseComponent) -> dict[str, bool]:
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
