"""Runs an experiment: `python pipelines/submit.py --exp NAME`."""

from __future__ import annotations

import os
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Run as a file, Python looks only beside it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

REQUIRED = ("click", "kfp", "mlflow", "psutil", "pydantic", "torch", "yaml")
if missing := [name for name in REQUIRED if find_spec(name) is None]:
    sys.exit(
        f"error: this Python ({sys.executable}) lacks {', '.join(missing)}. Use .venv/bin/python "
        "pipelines/submit.py, or first `source .venv/bin/activate`. `make demo` makes .venv."
    )

import click  # noqa: E402

from sdpose.code_version import code_version  # noqa: E402
from sdpose.config import dump_experiment, experiment_digest, load_experiment  # noqa: E402
from sdpose.errors import UserError, user_errors  # noqa: E402

if TYPE_CHECKING:
    from pipelines.endpoint import Endpoint

IMAGE_VARIABLE = "SDPOSE_IMAGE"
# Below the work dir: what the pipeline itself leaves.
PIPELINE_FOLDER = "pipeline"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--exp",
    required=True,
    metavar="NAME",
    help="An experiment in pipelines/experiments, or the path of a YAML file.",
)
@click.option("--data-root", metavar="DIR", help="Folder of the COCO dataset.")
@click.option("--work-dir", metavar="DIR", help="Folder of the results.")
@click.option(
    "--set",
    "overrides",
    metavar="KEY.PATH=VALUE",
    multiple=True,
    help="Change one value of the experiment; repeatable.",
)
@click.option("--resume-from", metavar="PATH|auto", help="Continue this checkpoint, or the newest.")
@click.option("--load-from", metavar="PATH", help="Start from the weights of this file.")
@click.option("--overwrite", is_flag=True, help="Remove another experiment's results first.")
@click.option(
    "--runner",
    type=click.Choice(["local", "kfp"]),
    help="This machine, or Kubeflow Pipelines. Default: kfp where an endpoint is configured.",
)
@click.option(
    "--endpoint",
    "--host",
    metavar="URL",
    help="Of Kubeflow Pipelines; else $KFP_ENDPOINT, or the cluster that this runs in.",
)
@click.option("--namespace", help="Of the run, where Kubeflow has several users.")
@click.option("--image", metavar="REF", help=f"Container of the steps; else ${IMAGE_VARIABLE}.")
@click.option(
    "--gpus",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="For training; cluster.",
)
@click.option(
    "--volume",
    "volumes",
    metavar="CLAIM:/PATH",
    multiple=True,
    help="Mount a PersistentVolumeClaim in every step (dataset, work dir); repeatable.",
)
@click.option("--wait", is_flag=True, help="Wait for the run on the cluster to end.")
@click.option("--dry-run", is_flag=True, help="Show what would run, and run nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def submit(
    exp: str,
    overrides: tuple[str, ...],
    overwrite: bool,
    runner: str | None,
    endpoint: str | None,
    namespace: str | None,
    image: str | None,
    gpus: int,
    volumes: tuple[str, ...],
    wait: bool,
    dry_run: bool,
    yes: bool,
    **places: str | None,
) -> None:
    """Prepare, train, evaluate and register an experiment, as one Kubeflow pipeline.

    Runs on this machine unless a Kubeflow Pipelines endpoint is configured. Ctrl-C stops it within
    seconds; the same command continues.

    \b
    python pipelines/submit.py --exp quickstart
    python pipelines/submit.py --exp maskedkd_v2 --data-root /data/coco --set optimizer.lr=5e-4
    """
    chosen, reason = _choose_runner(runner, endpoint)
    if not chosen:
        # The steps may run elsewhere than the shell that a relative path was typed in.
        places = {key: _absolute(value) for key, value in places.items()}
    experiment = load_experiment(exp, overrides, **places)
    document = dump_experiment(experiment)
    if "{{$" in document:
        raise UserError(f"{exp}: '{{{{$' cannot be part of a value: it is Kubeflow's own syntax")
    if chosen:
        image = image or os.environ.get(IMAGE_VARIABLE)
        if not image:
            raise UserError(
                "a cluster needs a container image with this code in it: --image REF or "
                f"${IMAGE_VARIABLE}; or run on this machine: --runner local"
            )
    comment = "# " if dry_run else ""  # what a dry run prints is YAML
    say(f"{comment}experiment: {experiment.exp_name}, digest {experiment_digest(experiment)}")
    say(f"{comment}runner: {'kfp' if chosen else 'local'} ({reason})")

    # kfp takes a second to import: not before the input is known to be good.
    from pipelines.sdpose_pipeline import compile_pipeline, make_pipeline

    pipeline = make_pipeline(str(image), gpus, _claims(volumes)) if chosen else make_pipeline()
    # On a cluster the work dir is a path of the cluster.
    work_dir = Path("work_dirs", experiment.exp_name) if chosen else Path(str(experiment.work_dir))
    package = work_dir / PIPELINE_FOLDER / "sdpose_pipeline.yaml"
    try:
        compile_pipeline(pipeline, package)
    except OSError as error:
        raise UserError(f"cannot write {package}: {error.strerror}; choose --work-dir") from None
    if dry_run:
        say(f"{comment}compiled pipeline: {package.absolute()}")
        say(document)
        return

    arguments = {
        "experiment": document,
        "code_version": code_version(),
        "runner": "kfp" if chosen else "local",
        "overwrite": overwrite,
    }
    if chosen:
        from pipelines.endpoint import check_endpoint
        from pipelines.run_kfp import run_kfp

        check_endpoint(chosen)
        if runner is None and endpoint is None:
            _confirm(f"Submit {experiment.exp_name} to {chosen.host}?", yes)
        succeeded = run_kfp(
            chosen,
            package,
            arguments,
            exp_name=experiment.exp_name,
            namespace=namespace,
            wait=wait,
            say=say,
        )
        sys.exit(0 if succeeded else 1)

    if overwrite and (work_dir / "experiment.yaml").exists():
        _confirm(f"Remove the checkpoints, logs and summary in {work_dir}?", yes)
    run_here(pipeline, arguments, work_dir)


def run_here(pipeline: Any, arguments: dict[str, Any], work_dir: Path) -> None:
    """Runs the pipeline on this machine, and says how it ended."""
    from pipelines.processes import Interrupted, interruptible
    from pipelines.run_local import StepError, run_local
    from sdpose.registry.run import read_summary, write_summary
    from sdpose.tracking import tracking_uri

    try:
        with interruptible():
            seconds = run_local(pipeline, arguments, work_dir / PIPELINE_FOLDER, say)
    except Interrupted as interrupted:
        click.echo(f"{interrupted}: stopped. To continue:\n  {_same_command()}", err=True)
        sys.exit(interrupted.exit_code)
    except StepError as failure:
        if failure.user_message is not None:
            raise UserError(str(failure)) from None
        click.echo(
            f"error: {failure}\nTo continue from the last checkpoint:\n  {_same_command()}",
            err=True,
        )
        sys.exit(1)
    summary = read_summary(work_dir) | {"seconds": seconds}
    write_summary(work_dir, summary)
    run_id = summary["mlflow_run_id"]
    say("")
    for name, value in {
        "AP": f"{summary['ap']:.4f} on {summary['bbox_source']} boxes",
        "checkpoint": summary["best_checkpoint"],
        "MLflow run": f"{run_id} in {tracking_uri()}" if run_id else "none (log_config.hooks)",
        "model version": f"{summary['exp_name']} version {summary['model_version']}",
        "summary": work_dir / "summary.json",
        "MLflow UI": "make ui",
    }.items():
        say(f"{name + ':':<15}{value}")


def _choose_runner(runner: str | None, option: str | None) -> tuple[Endpoint | None, str]:
    """The endpoint, None for this machine, and why."""
    if runner == "local":
        if option:
            raise UserError("--runner local and --endpoint contradict each other: leave one out")
        return None, "--runner local"
    from pipelines.endpoint import ENDPOINT_VARIABLES, find_endpoint

    endpoint = find_endpoint(option)
    if endpoint is not None:
        return endpoint, f"endpoint {endpoint.host}: {endpoint.found}"
    if runner == "kfp":
        raise UserError(
            f"--runner kfp: no Kubeflow Pipelines endpoint is configured: give --endpoint URL or "
            f"set ${ENDPOINT_VARIABLES[0]}"
        )
    ways = ", ".join(["--endpoint", *(f"${variable}" for variable in ENDPOINT_VARIABLES)])
    return None, f"no Kubeflow Pipelines endpoint is configured: {ways}"


def _absolute(path: str | None) -> str | None:
    return path if path in {None, "auto"} else os.path.abspath(os.path.expanduser(path))


def _claims(volumes: tuple[str, ...]) -> dict[str, str]:
    claims = {}
    for volume in volumes:
        claim, colon, path = volume.partition(":")
        if not (claim and colon and path.startswith("/")):
            raise UserError(f"--volume {volume}: expected CLAIM:/PATH, as in coco:/data/coco")
        claims[claim] = path
    return claims


def _confirm(question: str, yes: bool) -> None:
    """Asks where somebody can answer; elsewhere the flags are the answer."""
    if not yes and sys.stdin.isatty() and not click.confirm(question):
        raise click.Abort


def _same_command() -> str:
    """A training continues by itself, so the same command does; --overwrite would begin anew."""
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    return shlex.join([str(python), *(a for a in sys.argv if a != "--overwrite")])


def say(text: str, **style: Any) -> None:
    """A line for people. (While kfp runs, sys.stdout is its log.)"""
    assert sys.__stdout__ is not None
    colours = sys.__stdout__.isatty() and not os.environ.get("NO_COLOR")
    click.echo(click.style(text, **style) if style and colours else text, file=sys.__stdout__)


def main() -> None:
    with user_errors():
        try:
            submit(standalone_mode=False)
        except click.UsageError as error:
            error.show()
            sys.exit(2)
        except click.Abort:
            sys.exit(130)


if __name__ == "__main__":
    main()
