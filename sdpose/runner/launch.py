"""Several training processes on this machine: what `torchrun` does, with an exit code that counts.

    sdpose launch [torchrun's options] [--] train EXP ...

is the command of a container of a PyTorchJob, and of a shell. It takes torchrun's options
(--nproc-per-node, --nnodes, --node-rank, --master-addr, --max-restarts, --rdzv-...) and the PET_*
variables that the training operator sets, runs torch's own elastic launcher in this process, and
starts `python -m sdpose train EXP ...` once for each process. The exit code says who may help:

    0           every process ended well
    2           a person: an error in the input, told by the first process. Never started again
    1, ...127   a person: a bug; the process's traceback is above. Started again up to
                --max-restarts times
    130, 143    asked to end by SIGINT, SIGTERM; a training has saved. Not started again here
    128 + n     a process died of signal n (137: SIGKILL, for want of memory often). Started again
                up to --max-restarts times, then left to the cluster
    141         processes on another machine are gone (distributed.PEER_LOST_EXIT_CODE)

For PyTorchJob's restartPolicy ExitCode, 1 to 127 are final and 128 to 255 recreate the pod. What
is started again goes on from the newest checkpoint. torchrun itself makes 1 of all of these, and
prints a traceback of its own.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
from torch.distributed import DistError, run
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher import api as launcher

from sdpose.config import Experiment, dump_experiment, load_experiment
from sdpose.errors import PEER_LOST_EXIT_CODE, USER_ERROR_EXIT_CODE, UserError, user_errors
from sdpose.runner.process_group import is_main_process
from sdpose.runner.train import train
from sdpose.training.result import TrainResult

log = logging.getLogger(__name__)

STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
# Torch's launcher installs handlers of these for its processes, and leaves them there.
TORCH_HANDLES = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
COMMANDS = ("train", "test")  # those that know what to do in several processes


def launch(arguments: Sequence[str]) -> int:
    """`sdpose launch ARGUMENTS`: runs to the end of all processes and returns the exit code.

    Raises UserError for arguments that cannot be.
    """
    parser = run.get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    options = parser.parse_args(list(arguments))
    command = [options.training_script, *options.training_script_args]
    if command[0] not in COMMANDS:
        _refuse(f"cannot start '{command[0]}': expected {' or '.join(COMMANDS)}")
    for number in (signal.SIGTERM, signal.SIGINT):
        # Until torch installs its own. The first process of a container ignores what it does not
        # handle.
        signal.signal(number, _end)
    return _run_processes(options, "sdpose", command)


def _refuse(message: str) -> NoReturn:
    raise UserError(f"sdpose launch {message}, as in sdpose launch --nproc-per-node 8 train EXP")


def train_on_this_machine(
    experiment: Experiment, *, overwrite: bool = False, processes: int | None = None
) -> TrainResult:
    """`train` in one process for each visible GPU; one GPU, or none, is served by this process.

    data.samples_per_gpu is the batch of one process, so the global batch grows with the GPUs.
    processes: instead of the number of GPUs.
    Raises SystemExit with the exit code of `sdpose launch`, all being said, if it is not 0.
    """
    processes = processes or max(1, torch.cuda.device_count())
    if processes == 1:
        return train(experiment, overwrite=overwrite)
    with tempfile.TemporaryDirectory() as folder:
        experiment_file, result_file = Path(folder, "experiment.yaml"), Path(folder, "result.json")
        experiment_file.write_text(dump_experiment(experiment), encoding="utf-8")
        # A command, not a function: that would be spawned, and spawn its own loader processes too,
        # each with an import of torch that costs seconds.
        arguments = [str(experiment_file), str(result_file), *["overwrite"] * overwrite]
        options = run.get_args_parser().parse_args(
            ["--standalone", "--nnodes", "1", "--nproc-per-node", str(processes), "-"]
        )
        code = _run_processes(options, "sdpose.runner.launch", arguments)
        if code:
            raise SystemExit(code)
        values = json.loads(result_file.read_text(encoding="utf-8"))
    for key in ("best_checkpoint", "last_checkpoint"):
        values[key] = values[key] and Path(values[key])
    return TrainResult(**values)


def _run_processes(options: argparse.Namespace, module: str, arguments: list[str]) -> int:
    """`python -m MODULE ARGUMENTS` in each process; returns the exit code."""
    options.module, options.training_script, options.training_script_args = True, module, arguments
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does, which warns of it
    if "LOGLEVEL" not in os.environ:  # torch's switch for its launcher's messages
        for name in [n for n in logging.root.manager.loggerDict if n.startswith("torch.distrib")]:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    handlers = {number: signal.getsignal(number) for number in TORCH_HANDLES}
    agents: Any = launcher  # the one place where torch's launcher takes its supervisor from
    original, agents.LocalElasticAgent = agents.LocalElasticAgent, _Agent
    try:
        run.run(options)
    except ChildFailedError as failed:
        return _exit_code(failed.failures)
    except SignalException as asked:
        return 128 + int(asked.sigval)
    except (RendezvousError, DistError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        log.info(f"sdpose launch: the processes on the other machines do not answer: {reason}")
        return PEER_LOST_EXIT_CODE
    except (AssertionError, ValueError) as error:  # torch's words for options that cannot be
        raise UserError(f"sdpose launch: {error}") from None
    finally:
        agents.LocalElasticAgent = original
        for number, handler in handlers.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
    return 0


class _Agent(LocalElasticAgent):
    """Torch's supervisor of the processes; it would restart them whatever they ended with."""

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result: RunResult = super()._monitor_workers(worker_group)
        if result.is_failed() and result.failures:
            code = _exit_code(result.failures)
            if code in (USER_ERROR_EXIT_CODE, *STOPPED):
                self._remaining_restarts = 0
            else:
                left = self._remaining_restarts
                ahead = f"starting all again ({left - 1} more left)" if left else "ending all"
                log.info(f"sdpose launch: {_first_failure(result.failures)}; {ahead}")
        return result


def _root_cause(failures: Mapping[int, ProcessFailure]) -> tuple[int, ProcessFailure]:
    """The rank that failed first: behind it, in order, come those that were ended because of it.

    Two may be found at once. A user's error, which every process meets, goes before all; the loss
    of another process is never the cause.
    """
    ranked = sorted(
        failures.items(),
        key=lambda item: {USER_ERROR_EXIT_CODE: 0, PEER_LOST_EXIT_CODE: 2}.get(item[1].exitcode, 1),
    )
    return ranked[0]


def _exit_code(failures: Mapping[int, ProcessFailure]) -> int:
    code = _root_cause(failures)[1].exitcode
    return code if code >= 0 else 128 - code


def _first_failure(failures: Mapping[int, ProcessFailure]) -> str:
    rank, failure = _root_cause(failures)
    if failure.exitcode == PEER_LOST_EXIT_CODE:
        return f"process {rank} has lost another one"
    if failure.exitcode >= 0:
        return f"process {rank} ended with exit code {failure.exitcode} (its messages are above)"
    reason = ", by a person or for want of memory" if failure.exitcode == -signal.SIGKILL else ""
    return f"process {rank} was killed by {failure.signal_name()}{reason}"


def _end(signum: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


def _train_one_rank(experiment_file: str, result_file: str, *overwrite: str) -> None:
    with user_errors():
        result = train(load_experiment(experiment_file), overwrite=bool(overwrite))
    if is_main_process():
        Path(result_file).write_text(json.dumps(asdict(result), default=str), encoding="utf-8")


if __name__ == "__main__":
    _train_one_rank(*sys.argv[1:])
