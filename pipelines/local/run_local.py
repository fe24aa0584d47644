"""Runs an experiment or a sweep on this machine, from the pipeline to its summary; resumes one."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import click
from kfp.dsl.base_component import BaseComponent

from components.interrupts import Interrupted
from pipelines.console import confirm, same_command, say
from pipelines.local.gpus import visible_gpus
from pipelines.local.kfp_local import RUN_FILE, StepError, run_local
from pipelines.local.processes import interruptible
from pipelines.options import SubmitOptions
from pipelines.sdpose_pipeline import compile_pipeline, make_pipeline
from pipelines.sweep_pipeline import make_sweep_pipeline
from pipelines.sweep_run import SWEEPS_FOLDER, SweepRun
from sdpose import tracking
from sdpose.code_version import code_version
from sdpose.config import Experiment, dump_experiment, parse_experiment
from sdpose.documents import read_json
from sdpose.errors import UserError
from sdpose.files import matching
from sdpose.registry.promote import objections
from sdpose.registry.register_run import read_summary, write_summary
from sdpose.sweeps import Sweep, Trial
from sdpose.training.paths import EXPERIMENT_FILE, REPORT, run_paths

# Below the work dir: what the pipeline itself leaves.
PIPELINE_FOLDER = "pipeline"


def run_experiment_here(experiment: Experiment, options: SubmitOptions) -> None:
    """Runs the pipeline, or shows what would run."""
    work_dir = run_paths(experiment).work_dir
    package = work_dir / PIPELINE_FOLDER / "sdpose_pipeline.yaml"
    pipeline = make_pipeline(overwrite=options.overwrite, promotes=bool(options.promote))
    _compile(pipeline, package)
    if options.dry_run:
        say(f"# compiled pipeline: {package.absolute()}")
        from sdpose.prepare.splits import missing_data

        absent = missing_data(experiment)
        if absent:
            say(f"# {absent}: the first step would fail (--data-root DIR)")
        say(dump_experiment(experiment))
        return
    if options.overwrite and (work_dir / EXPERIMENT_FILE).exists():
        confirm(f"Remove the checkpoints, logs and summary in {work_dir}?", options.yes)
    arguments = {
        "experiment": dump_experiment(experiment),
        "code_version": code_version(),
        "runner": "local",
        **options.promotion,
    }
    run_here(pipeline, arguments, work_dir, cache=not options.no_cache)


def run_sweep_here(sweep: Sweep, trials: list[Trial], root: Path, options: SubmitOptions) -> None:
    """Runs a sweep, or shows what would run.

    root: the folder above the work dirs. Without --parallel, the sweep's limit of trials train at
    once, but one for each GPU at most.
    """
    if options.overwrite and not options.dry_run:
        confirm(f"Train all {len(trials)} trials again?", options.yes)
    count = options.parallel or min(sweep.limits.parallel, max(1, len(visible_gpus())))
    run = SweepRun(sweep, trials, min(count, len(trials)))
    folder = root / SWEEPS_FOLDER / sweep.name
    package = folder / PIPELINE_FOLDER / "sdpose_sweep.yaml"
    pipeline = make_sweep_pipeline(parallel=run.parallel, overwrite=options.overwrite)
    arguments = run.arguments(code_version(), "local")
    _compile(pipeline, package)
    if options.dry_run:
        for line in [*run.summary(), f"compiled pipeline: {package.absolute()}"]:
            say(f"# {line}")
        return
    run.say_plan()
    report = folder / "report.html"
    report.unlink(missing_ok=True)
    say(f"{run.parallel} at a time; results: {folder}")
    try:
        run_steps(
            pipeline,
            arguments,
            folder / PIPELINE_FOLDER,
            cache=not options.no_cache,
            parallel=run.parallel,
        )
    finally:
        artifacts = folder / PIPELINE_FOLDER / "artifacts"
        for artifact, name in {"report": "report.html", "table": "ranking.md"}.items():
            for made in matching(artifacts, f"*/rank-trials/{artifact}"):
                shutil.copyfile(made, folder / name)
        if report.is_file():
            say(f"report: {report}")
            say(f"all trials: sdpose compare {root}/{sweep.name}-*; sdpose ui")


def _compile(pipeline: BaseComponent, package: Path) -> None:
    """Writes the pipeline's IR below the work dir; UserError if it cannot be written there."""
    try:
        compile_pipeline(pipeline, package)
    except OSError as error:
        raise UserError(f"cannot write {package}: {error.strerror}; choose --work-dir") from None


def run_here(
    pipeline: BaseComponent, arguments: dict[str, Any], work_dir: Path, *, cache: bool
) -> None:
    """Runs the pipeline on this machine, and says how it ended. Does not return if it fails."""
    seconds = run_steps(pipeline, arguments, work_dir / PIPELINE_FOLDER, cache=cache)
    summary = read_summary(work_dir) | {"seconds": seconds}
    write_summary(work_dir, summary)
    say("")
    for name, value in {
        "AP": f"{summary['ap']:.4f} on {summary['bbox_source']} boxes",
        "checkpoint": summary["best_checkpoint"],
        "model version": f"{summary['model_name']} version {summary['model_version']}",
        **({"promotion": _promotion(promoted)} if (promoted := summary.get("promotion")) else {}),
        **({"report": report} if (report := work_dir / REPORT).is_file() else {}),
        **tracking.pages_of(summary["mlflow_run_id"]),
        "all runs": f"sdpose compare {work_dir.parent}/*",
    }.items():
        say(f"{name + ':':<15}{value}")


def _promotion(record: dict[str, Any]) -> str:
    if record["allowed"]:
        return f"{record['channel']} has it now (generation {record['generation']})"
    return f"{record['channel']} refuses it: {objections(record)}"


def run_steps(
    pipeline: BaseComponent,
    arguments: dict[str, Any],
    folder: Path,
    *,
    cache: bool,
    parallel: int = 1,
) -> dict[str, float]:
    """`run_local`, which a person may interrupt; ends the program, all being said, if it fails."""
    try:
        with interruptible():
            return run_local(pipeline, arguments, folder, cache=cache, parallel=parallel)
    except Interrupted as interrupted:
        click.echo(f"{interrupted}: stopped. To continue:\n  {same_command()}", err=True)
        sys.exit(interrupted.exit_code)
    except StepError as failure:
        if failure.user_message is not None:
            raise UserError(str(failure)) from None
        click.echo(
            f"error: {failure}\nTo continue from the last checkpoint:\n  {same_command()}",
            err=True,
        )
        sys.exit(1)


def is_local_run(run: str) -> bool:
    return (Path(run) / PIPELINE_FOLDER / RUN_FILE).is_file()


def resume_here(work_dir: str) -> None:
    """Runs again, from its work dir, what has not succeeded: with the experiment that it had then,
    whatever has become of its file."""
    path = Path(work_dir) / PIPELINE_FOLDER / RUN_FILE
    last = read_json(path)
    try:
        arguments = last["arguments"] | {"code_version": code_version()}
        document, folder = str(arguments["experiment"]), str(last["cwd"])
    except (LookupError, TypeError):
        raise UserError(
            f"{path}: not what submit.py writes there: submit the experiment again"
        ) from None
    experiment = parse_experiment(document, source=str(path))
    try:
        os.chdir(folder)  # its relative paths begin there
    except OSError as error:
        raise UserError(f"{path}: the run was started in {folder}: {error.strerror}") from None
    say(f"resuming {experiment.exp_name} in {run_paths(experiment).work_dir}")
    pipeline = make_pipeline(promotes=bool(arguments.get("promote_to")))
    run_here(pipeline, arguments, run_paths(experiment).work_dir, cache=True)
