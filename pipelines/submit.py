"""Runs an experiment: `python pipelines/submit.py --exp NAME`."""

from __future__ import annotations

import json
import os
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

from pipelines.console import confirm, say  # noqa: E402
from pipelines.parameters import check_parameter  # noqa: E402
from pipelines.run_commands import (  # noqa: E402
    CLUSTER_VARIABLE,
    SETTINGS,
    cancel,
    cluster_option,
    endpoint_option,
    interrupt_option,
    resume,
    wait_option,
)
from sdpose.cli.habits import explain  # noqa: E402
from sdpose.cli.options import allow_unsupported_option, overrides_option  # noqa: E402
from sdpose.config import Experiment, dump_experiment, experiment_digest  # noqa: E402
from sdpose.config.paths import local_path  # noqa: E402
from sdpose.errors import UserError, user_errors  # noqa: E402
from sdpose.registry import CHANNELS  # noqa: E402
from sdpose.registry.layout import check_model_name  # noqa: E402
from sdpose.sweeps import expand, load_sweep  # noqa: E402
from sdpose.tools.mmpose_import.direct import experiment_loader  # noqa: E402

if TYPE_CHECKING:
    from components.profile import Cluster
    from pipelines.cluster.run_on_cluster import Wishes
    from pipelines.kfp_client.endpoint import Endpoint

IMAGE_VARIABLE = "SDPOSE_IMAGE"
# Options that change nothing on this machine. (Waiting does: a run here is always waited for.)
OF_CLUSTERS = (
    *("check", "no_preflight", "any_code", "namespace", "image", "nodes", "gpus", "train_api"),
    *("volumes", "run_name", "schedule"),
)


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
    "sweep_name",
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
def submit(
    exp: str | None,
    sweep_name: str | None,
    data_root: str | None,
    work_dir: str | None,
    overrides: tuple[str, ...],
    resume_from: str | None,
    load_from: str | None,
    allow_unsupported: bool,
    register_as: str | None,
    dry_run: bool,
    runner: str | None,
    profile: str | None,
    endpoint: str | None,
    **options: Any,
) -> None:
    """Prepare, train, evaluate and register an experiment, as one Kubeflow pipeline.

    Runs on this machine unless a Kubeflow Pipelines endpoint is configured. Ctrl-C stops it within
    seconds; the same command continues. On a cluster a PyTorchJob trains, on several nodes.

    \b
    python pipelines/submit.py --exp quickstart
    python pipelines/submit.py --exp maskedkd_v2 --data-root /data/coco --set optimizer.lr=5e-4
    python pipelines/submit.py --exp maskedkd_v2 --cluster cluster.yaml --endpoint URL --wait
    python pipelines/submit.py --sweep maskedkd
    """
    if (exp is None) == (sweep_name is None):
        raise UserError("give --exp NAME for one experiment, or --sweep NAME for many")
    if exp is not None and options["parallel"]:
        raise UserError("--parallel is for the trials of a sweep: give --sweep NAME")
    if exp is None and allow_unsupported:
        raise UserError("--allow-unsupported is for an mmpose configuration: give --exp CONFIG.py")
    from pipelines.choose_runner import choose_target

    if register_as is not None:
        overrides += (f"registry.model={json.dumps(check_model_name(register_as))}",)
    target = choose_target(
        runner, endpoint, profile, profile_is_given=_given("profile"), dry_run=dry_run
    )
    where: dict[str, str | None] = {"data_root": data_root, "work_dir": work_dir}
    files: dict[str, str | None] = {"resume_from": resume_from, "load_from": load_from}
    cluster = None
    if target.on_cluster:
        cluster = _read_cluster(profile, options)
    else:
        _refuse_options_of_clusters()
        # The steps run elsewhere than in the shell that a relative path was typed in.
        where, files = _absolute(where), _absolute(files)
    comment = "# " if dry_run else ""  # what a dry run prints is YAML
    say(f"{comment}runner: {'kfp' if target.on_cluster else 'local'} ({target.reason})")
    options["dry_run"] = dry_run
    options["configured"] = runner is not None or endpoint is not None
    if sweep_name is not None:
        _sweep(sweep_name, overrides, {**where, **files}, target.endpoint, cluster, options)
        return
    assert exp is not None
    load = experiment_loader(exp, allow_unsupported=allow_unsupported)
    if cluster is not None:
        named = load(overrides)  # for its name alone
        where = {**cluster.places(named.exp_name), **{k: v for k, v in where.items() if v}}
    experiment = load(overrides, **where, **files)
    check_parameter(exp, dump_experiment(experiment), in_pods=cluster is not None)
    say(f"{comment}experiment: {experiment.exp_name}, digest {experiment_digest(experiment)}")
    if cluster is None:
        # kfp takes a second to import: not before the input is known to be good.
        from pipelines.local.run_local import run_experiment_here

        run_experiment_here(
            experiment,
            promotion=_promotion(options),
            cache=not options["no_cache"],
            overwrite=options["overwrite"],
            dry_run=dry_run,
            yes=options["yes"],
        )
    else:
        sys.exit(_on_cluster(target.endpoint, experiment, cluster, options))


def _refuse_options_of_clusters() -> None:
    for name in OF_CLUSTERS:
        if _given(name):
            option = name.removesuffix("s") if name == "volumes" else name.replace("_", "-")
            here = "; here all GPUs are used, or those of CUDA_VISIBLE_DEVICES" * (name == "gpus")
            raise UserError(
                f"--{option} is for a cluster: give --cluster FILE and --endpoint URL{here}"
            )


def _sweep(
    name: str,
    overrides: tuple[str, ...],
    given: dict[str, str | None],
    endpoint: Endpoint | None,
    cluster: Cluster | None,
    options: dict[str, Any],
) -> None:
    """Runs a sweep, here or there. given: what the command line says of folders and files."""
    if given.pop("resume_from"):
        raise UserError(
            "--resume-from is for one experiment: trials of a sweep continue by "
            "themselves when it is submitted again"
        )
    if options["schedule"]:
        raise UserError("--schedule is for one experiment: a sweep that is done has nothing to do")
    if options["promote"]:
        raise UserError(
            "--promote is for one experiment: look at the sweep's ranking, then "
            "`sdpose registry promote MODEL VERSION`"
        )
    if cluster is not None:
        places = cluster.places("")
        own = {key: value for key, value in given.items() if value}
        given = {**places, "work_dir": places["work_dir"].rstrip("/"), **own}
    root = given["work_dir"] or "work_dirs"
    sweep = load_sweep(name)
    trials = expand(sweep, overrides, rungs=f"{root}/sweeps/{sweep.name}/rungs", **given)
    for trial in trials:
        check_parameter(trial.name, dump_experiment(trial.experiment), in_pods=cluster is not None)
    if cluster is None:
        from pipelines.run_sweep import run_sweep_here

        if options["overwrite"] and not options["dry_run"]:
            confirm(f"Train all {len(trials)} trials anew?", options["yes"])
        run_sweep_here(
            sweep,
            trials,
            Path(root),
            parallel=options["parallel"],
            cache=not options["no_cache"],
            overwrite=options["overwrite"],
            dry_run=options["dry_run"],
        )
        return
    from pipelines.cluster.run_on_cluster import check_cluster, show_sweep, sweep_to_cluster
    from pipelines.run_sweep import SweepRun

    run = SweepRun(sweep, trials, min(options["parallel"] or sweep.limits.parallel, len(trials)))
    if options["dry_run"]:
        show_sweep(run, cluster, _wishes(options))
        return
    assert endpoint is not None
    if options["check"]:
        check_cluster(endpoint, cluster)
        return
    if not options["configured"]:
        confirm(f"Submit the sweep {sweep.name} to {endpoint.host}?", options["yes"])
    sys.exit(sweep_to_cluster(endpoint, run, cluster, _wishes(options)))


def _on_cluster(
    endpoint: Endpoint | None,
    experiment: Experiment,
    cluster: Cluster,
    options: dict[str, Any],
) -> int:
    from pipelines.cluster.run_on_cluster import check_cluster, show_manifests, submit_to_cluster

    wishes = _wishes(options)
    if options["dry_run"]:
        show_manifests(experiment, cluster, wishes)
        return 0
    assert endpoint is not None
    if options["check"]:
        check_cluster(endpoint, cluster)
        return 0
    if not options["configured"]:
        confirm(f"Submit {experiment.exp_name} to {endpoint.host}?", options["yes"])
    return submit_to_cluster(endpoint, experiment, cluster, wishes)


def _wishes(options: dict[str, Any]) -> Wishes:
    from pipelines.cluster.run_on_cluster import Wishes

    return Wishes(
        run_name=options["run_name"],
        cache=not options["no_cache"],
        overwrite=options["overwrite"],
        promotion=_promotion(options),
        any_code=options["any_code"],
        check=not options["no_preflight"],
        schedule=options["schedule"],
        wait=options["wait"],
        cancel_on_interrupt=options["cancel_on_interrupt"],
    )


def _promotion(options: dict[str, Any]) -> dict[str, str]:
    """The pipeline's arguments of a promotion: whoever submits it is who approves it."""
    if options["promote"] is None:
        return {}
    from sdpose.registry.promote import default_approver

    return {"promote_to": options["promote"], "approver": default_approver()}


def _read_cluster(profile: str | None, options: dict[str, Any]) -> Cluster:
    if not profile:
        raise UserError(
            "a cluster needs a profile, which says where and with what it trains: --cluster FILE "
            f"or ${CLUSTER_VARIABLE} (k8s/cluster.yaml is one to start from); or run on this "
            "machine: --runner local"
        )
    from pipelines.cluster.run_on_cluster import read_cluster

    return read_cluster(
        profile,
        options["volumes"],
        namespace=options["namespace"],
        image=options["image"],
        nodes=options["nodes"],
        gpus_per_node=options["gpus"],
        train_api=options["train_api"],
    )


def _given(option: str) -> bool:
    source = click.get_current_context().get_parameter_source(option)
    return source is click.core.ParameterSource.COMMANDLINE


def _absolute(paths: dict[str, str | None]) -> dict[str, str | None]:
    return {
        key: path
        if path is None or path == "auto" or "://" in path
        else os.path.abspath(local_path(path, key))
        for key, path in paths.items()
    }


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
