"""Runs an experiment: `python pipelines/submit.py --exp NAME`."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Run as a file, Python looks only beside it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

REQUIRED = ("click", "kfp", "mlflow", "psutil", "pydantic", "torch", "yaml")
if missing := [name for name in REQUIRED if find_spec(name) is None]:
    sys.exit(
        f"error: this Python ({sys.executable}) lacks {', '.join(missing)}. Use .venv/bin/python "
        "pipelines/submit.py, or first `source .venv/bin/activate`. `make demo` makes .venv."
    )

import click  # noqa: E402

from pipelines import plan  # noqa: E402
from pipelines.options import SubmitOptions  # noqa: E402
from pipelines.run_commands import (  # noqa: E402
    SETTINGS,
    cancel,
    cluster_option,
    endpoint_option,
    interrupt_option,
    resume,
    wait_option,
)
from sdpose.cli.options import allow_unsupported_option, overrides_option  # noqa: E402
from sdpose.cli.usage_hints import explain  # noqa: E402
from sdpose.errors import UserError, user_errors  # noqa: E402
from sdpose.registry import CHANNELS  # noqa: E402

IMAGE_VARIABLE = "SDPOSE_IMAGE"


@click.command(
    context_settings=SETTINGS,
    epilog="Other commands, each with --help: submit.py resume RUN, submit.py cancel RUN.",
)
@click.option(
    "--exp",
    metavar="NAME",
    help="An experiment in pipelines/experiments, or the path of a YAML file or of an mmpose 0.x "
    "configuration (.py).",
)
@click.option(
    "--sweep",
    metavar="NAME",
    help="Instead of --exp: many experiments, of a file in pipelines/sweeps, and their ranking.",
)
@click.option(
    "--parallel",
    type=click.IntRange(1),
    help="Trials of a sweep that train at once, instead of the file's limit.",
)
@click.option("--data-root", metavar="DIR", help="Folder of the COCO dataset.")
@click.option(
    "--work-dir", metavar="DIR", help="Folder of the results; of a sweep, the folder above them."
)
@overrides_option
@click.option("--resume-from", metavar="PATH|auto", help="Continue this checkpoint, or the newest.")
@click.option("--load-from", metavar="PATH", help="Start from the weights of this file.")
@click.option("--overwrite", is_flag=True, help="Remove another experiment's results first.")
@allow_unsupported_option
@click.option(
    "--register-as",
    metavar="MODEL",
    help="The model that the run becomes a version of, instead of the experiment's registry.model "
    "(by default the name of its first base).",
)
@click.option(
    "--promote",
    type=click.Choice(CHANNELS),
    metavar="CHANNEL",
    help="Afterwards point this channel of the model registry at the version, if the experiment's "
    f"`promotion` gates agree: {', '.join(CHANNELS)}. A refusal is recorded and fails nothing.",
)
@click.option("--no-cache", is_flag=True, help="Run every step, also those that have not changed.")
@click.option("--dry-run", is_flag=True, help="Show what would run, manifests too; run nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--runner",
    type=click.Choice(["local", "kfp"]),
    help="This machine, or Kubeflow Pipelines. Default: kfp where an endpoint is configured.",
)
@cluster_option
@endpoint_option
@click.option("--check", is_flag=True, help="Only look whether the cluster has all that is needed.")
@click.option(
    "--no-preflight", is_flag=True, help="Leave out the run's first step, which looks for the same."
)
@click.option(
    "--any-code",
    is_flag=True,
    help="Do not mind if the image holds another code than this checkout.",
)
@click.option("--namespace", help="Instead of the profile's.")
@click.option(
    "--image",
    metavar="REF",
    envvar=IMAGE_VARIABLE,
    help=f"Container image, instead of the profile's; else ${IMAGE_VARIABLE}.",
)
@click.option("--nodes", type=click.IntRange(1), help="For training, instead of the profile's.")
@click.option("--gpus", type=click.IntRange(0), help="Of each node, instead of the profile's.")
@click.option(
    "--train-api",
    type=click.Choice(["pytorchjob", "trainjob", "auto"]),
    help="Training Operator v1, Kubeflow Trainer v2, or what the cluster has; instead of the "
    "profile's.",
)
@click.option(
    "--volume",
    "volumes",
    metavar="CLAIM:/PATH",
    multiple=True,
    help="One more PersistentVolumeClaim to mount in every step; repeatable.",
)
@click.option("--run-name", metavar="NAME", help="In Kubeflow; default: exp_name and the time.")
@click.option(
    "--schedule",
    metavar="CRON",
    help="Run again and again on the cluster, as '0 3 * * 1' for Mondays at 3:00.",
)
@wait_option
@interrupt_option
def submit(**values: Any) -> None:
    """Prepare, train, evaluate and register an experiment, as one Kubeflow pipeline.

    Runs on this machine unless a Kubeflow Pipelines endpoint is configured. Ctrl-C stops it within
    seconds; the same command continues. On a cluster a PyTorchJob trains, on several nodes.

    \b
    python pipelines/submit.py --exp quickstart
    python pipelines/submit.py --exp maskedkd_v2 --data-root /data/coco --set optimizer.lr=5e-4
    python pipelines/submit.py --exp maskedkd_v2 --cluster cluster.yaml --endpoint URL --wait
    python pipelines/submit.py --sweep maskedkd
    """
    context = click.get_current_context()
    typed = frozenset(
        name
        for name in values
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    )
    if code := plan.run(SubmitOptions(**values, typed=typed)):
        sys.exit(code)


def main() -> None:
    others: dict[str, click.Command] = {"resume": resume, "cancel": cancel}
    name, *rest = sys.argv[1:] or [""]
    command, arguments = (others[name], rest) if name in others else (submit, sys.argv[1:])
    with user_errors():
        try:
            program = f"submit.py {name}" if name in others else "submit.py"
            command.main(arguments, prog_name=program, standalone_mode=False)
        except click.UsageError as error:
            raise UserError(explain(error, arguments)) from None
        except click.Abort:
            click.echo("interrupted", err=True)
            sys.exit(130)


if __name__ == "__main__":
    main()
