"""Decides what a command line of submit.py runs, and where: this machine or a cluster.

Modules that import kfp are imported late: it takes a second, and bad input is reported before.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.choose_runner import Runner, choose_runner
from pipelines.console import say
from pipelines.options import CLUSTER_VARIABLE, SubmitOptions
from pipelines.parameters import check_parameter
from sdpose.config import dump_experiment, experiment_digest
from sdpose.config.paths import local_path
from sdpose.errors import UserError
from sdpose.registry.layout import check_model_name
from sdpose.sweeps import expand, load_sweep
from sdpose.tools.mmpose_import.direct import experiment_loader

if TYPE_CHECKING:
    from components.profile import Cluster

# Options that change nothing on this machine. (Waiting does: a run here is always waited for.)
CLUSTER_ONLY_OPTIONS = (
    *("check", "no_preflight", "any_code", "namespace", "image", "nodes", "gpus", "train_api"),
    *("volumes", "run_name", "schedule"),
)


def run(options: SubmitOptions) -> int:
    """Runs what the command line asks for; returns the exit code.

    Raises:
        UserError: options contradict each other, or the input cannot be used.
    """
    _check_together(options)
    if options.register_as is not None:
        model = f"registry.model={json.dumps(check_model_name(options.register_as))}"
        options = replace(options, overrides=(*options.overrides, model))
    runner = choose_runner(options)
    cluster = None
    if runner.on_cluster:
        cluster = _read_cluster(options)
    else:
        _refuse_cluster_options(options)
        options = _with_absolute_paths(options)
    name = "kfp" if runner.on_cluster else "local"
    say(f"{options.comment}runner: {name} ({runner.reason})")
    run_one = _run_experiment if options.sweep is None else _run_sweep
    return run_one(options, runner, cluster)


def _check_together(options: SubmitOptions) -> None:
    if (options.exp is None) == (options.sweep is None):
        raise UserError("give --exp NAME for one experiment, or --sweep NAME for many")
    if options.exp is not None and options.parallel:
        raise UserError("--parallel is for the trials of a sweep: give --sweep NAME")
    if options.exp is None and options.allow_unsupported:
        raise UserError("--allow-unsupported is for an mmpose configuration: give --exp CONFIG.py")


def _run_experiment(options: SubmitOptions, runner: Runner, cluster: Cluster | None) -> int:
    assert options.exp is not None
    load = experiment_loader(options.exp, allow_unsupported=options.allow_unsupported)
    places: dict[str, str] = {}
    if cluster is not None:
        places = cluster.places(load(options.overrides).exp_name)
    experiment = load(
        options.overrides,
        data_root=options.data_root or places.get("data_root"),
        work_dir=options.work_dir or places.get("work_dir"),
        resume_from=options.resume_from,
        load_from=options.load_from,
    )
    check_parameter(options.exp, dump_experiment(experiment), in_pods=cluster is not None)
    digest = experiment_digest(experiment)
    say(f"{options.comment}experiment: {experiment.exp_name}, digest {digest}")
    if cluster is None:
        from pipelines.local.run_local import run_experiment_here

        run_experiment_here(experiment, options)
        return 0
    from pipelines.cluster.run_on_cluster import run_on_cluster

    return run_on_cluster(experiment, cluster, runner.endpoint, options)


def _run_sweep(options: SubmitOptions, runner: Runner, cluster: Cluster | None) -> int:
    assert options.sweep is not None
    if options.resume_from:
        raise UserError(
            "--resume-from is for one experiment: trials of a sweep continue by "
            "themselves when it is submitted again"
        )
    if options.schedule:
        raise UserError("--schedule is for one experiment: a sweep that is done has nothing to do")
    if options.promote:
        raise UserError(
            "--promote is for one experiment: look at the sweep's ranking, then "
            "`sdpose registry promote MODEL VERSION`"
        )
    data_root, work_dir = options.data_root, options.work_dir
    if cluster is not None:
        places = cluster.places("")
        data_root = data_root or places["data_root"]
        work_dir = work_dir or places["work_dir"].rstrip("/")
    root = work_dir or "work_dirs"
    sweep = load_sweep(options.sweep)
    trials = expand(
        sweep,
        options.overrides,
        rungs=f"{root}/sweeps/{sweep.name}/rungs",
        data_root=data_root,
        work_dir=work_dir,
        load_from=options.load_from,
    )
    for trial in trials:
        check_parameter(trial.name, dump_experiment(trial.experiment), in_pods=cluster is not None)
    if cluster is None:
        from pipelines.local.run_local import run_sweep_here

        run_sweep_here(sweep, trials, Path(root), options)
        return 0
    from pipelines.cluster.run_on_cluster import run_on_cluster
    from pipelines.sweep_run import SweepRun

    parallel = options.parallel or sweep.limits.parallel
    run = SweepRun(sweep, trials, min(parallel, len(trials)))
    return run_on_cluster(run, cluster, runner.endpoint, options)


def _read_cluster(options: SubmitOptions) -> Cluster:
    if not options.profile:
        raise UserError(
            "a cluster needs a profile, which says where and with what it trains: --cluster FILE "
            f"or ${CLUSTER_VARIABLE} (k8s/cluster.yaml is one to start from); or run on this "
            "machine: --runner local"
        )
    from pipelines.cluster.run_on_cluster import read_cluster

    return read_cluster(
        options.profile,
        options.volumes,
        namespace=options.namespace,
        image=options.image,
        nodes=options.nodes,
        gpus_per_node=options.gpus,
        train_api=options.train_api,
    )


def _refuse_cluster_options(options: SubmitOptions) -> None:
    for name in CLUSTER_ONLY_OPTIONS:
        if name in options.typed:
            option = name.removesuffix("s") if name == "volumes" else name.replace("_", "-")
            here = "; here all GPUs are used, or those of CUDA_VISIBLE_DEVICES" * (name == "gpus")
            raise UserError(
                f"--{option} is for a cluster: give --cluster FILE and --endpoint URL{here}"
            )


def _with_absolute_paths(options: SubmitOptions) -> SubmitOptions:
    """The steps run elsewhere than in the shell that a relative path was typed in."""

    return replace(
        options,
        data_root=absolute_path(options.data_root, "data_root"),
        work_dir=absolute_path(options.work_dir, "work_dir"),
        resume_from=absolute_path(options.resume_from, "resume_from"),
        load_from=absolute_path(options.load_from, "load_from"),
    )


def absolute_path(path: str | None, name: str) -> str | None:
    """The path of an option as every step finds it; an address and "auto" stay as they are."""
    if path is None or path == "auto" or "://" in path:
        return path
    return os.path.abspath(local_path(path, name))
