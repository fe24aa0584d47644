"""`sdpose registry`: versions of models, their channels, and what keeps them sound."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from sdpose.cli.text import format_rows
from sdpose.errors import UserError
from sdpose.registry.layout import CHANNELS, ROOT_VARIABLE, registry_root
from sdpose.storage import Store, open_store

Command = Callable[..., Any]
REFUSED = 1  # exit code: the gate said no, or something is damaged

channel_option = click.option("--channel", type=click.Choice(CHANNELS), required=True)
comment_option = click.option("--comment", default="", help="Recorded with the move.")
approver_option = click.option(
    "--approver", metavar="NAME", help="Recorded with the move [default: $SDPOSE_APPROVER, or you]."
)


@click.group()
def registry() -> None:
    """Versions of models: register, promote, roll back, pull, check.

    The registry is a folder or an S3 prefix: --registry URI or $SDPOSE_REGISTRY, default
    work_dirs/registry. MLflow follows where $MLFLOW_TRACKING_URI is set.
    """


def on_store(command: Command) -> Command:
    """Gives a command the store and --json; what it returns is printed: a text, or a value."""

    @click.option("--registry", "root", metavar="URI", help=f"[default: ${ROOT_VARIABLE}]")
    @click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
    @functools.wraps(command)
    def wrapped(root: str | None, as_json: bool, **arguments: Any) -> None:
        text, value, *exit_code = command(open_store(root or registry_root()), **arguments)
        click.echo(json.dumps(value, indent=2, ensure_ascii=False) if as_json else text)
        sys.exit(*exit_code)

    return wrapped


@registry.command()
@click.argument("model")
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--metrics",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="F.json",
    help="Of its evaluation: the .metrics.json that `sdpose test --out` writes.",
)
@click.option("--exp", help="The experiment, for checkpoints that do not name theirs.")
@click.option("--dataset-digest", default="", help="Of the evaluation's data (`sdpose prepare`).")
@click.option("--mlflow-run", metavar="ID", help="The training's run.")
@on_store
def register(
    store: Store,
    model: str,
    checkpoint: Path,
    metrics: Path | None,
    exp: str | None,
    dataset_digest: str,
    mlflow_run: str | None,
) -> Any:
    """Upload the weights of CHECKPOINT and announce them as a version of MODEL.

    The same content is the same version, however often it is registered.
    """
    from sdpose.config import load_experiment, parse_experiment
    from sdpose.models.weights import read_checkpoint
    from sdpose.registry.register import register_checkpoint

    _, meta = read_checkpoint(checkpoint)
    if exp is not None:
        experiment = load_experiment(exp)
    elif "experiment" in meta:
        experiment = parse_experiment(meta["experiment"], source=str(checkpoint))
    else:
        raise UserError(f"{checkpoint} does not say which experiment it is of: give --exp NAME")
    values = read_metrics(metrics) if metrics else {}
    version = register_checkpoint(
        model,
        checkpoint,
        experiment=experiment,
        dataset_digest=dataset_digest or values.pop("dataset_digest", ""),
        evaluation_settings=values.pop("settings", {}),
        metrics=values,
        mlflow_run_id=mlflow_run or meta.get("mlflow_run_id"),
        root=store,
        say=_warn,
    )
    again = "" if version.created else " (the same content was there)"
    return f"{model} version {version.version}{again}: {version.weights_uri}", _plain(version)


def read_metrics(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        numbers = {k: v for k, v in values.items() if k not in ("settings", "dataset_digest")}
        if not numbers or not all(isinstance(v, int | float) for v in numbers.values()):
            raise ValueError("its values are no numbers")
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: {error}; expected an object of numbers such as the .metrics.json beside the "
            "file that `sdpose test --out` writes"
        ) from None
    return dict(values)


def _plain(version: Any) -> dict[str, Any]:
    return {
        "model_name": version.model_name,
        "version": version.version,
        "created": version.created,
        "weights_uri": version.weights_uri,
        "manifest_uri": version.manifest_uri,
        "manifest_sha256": version.manifest_sha256,
        "sha256": version.sha256,
    }


@registry.command("list")
@click.argument("model", required=False)
@on_store
def list_(store: Store, model: str | None) -> Any:
    """List the models, or the versions of MODEL, with the channels that point at them."""
    from sdpose.registry.channels import current
    from sdpose.registry.versions import model_names, summarize

    def channels_of(name: str) -> dict[str, int]:
        records = {channel: current(store, name, channel) for channel in CHANNELS}
        return {channel: record["version"] for channel, record in records.items() if record}

    if model is None:
        models = {name: channels_of(name) for name in model_names(store)}
        rows = [[n, " ".join(f"{c}={v}" for c, v in ch.items())] for n, ch in models.items()]
        return format_rows(["model", "channels"], rows), models
    channels = channels_of(model)
    versions = [
        summary | {"channels": [c for c, v in channels.items() if v == summary["version"]]}
        for summary in summarize(store, model, by_index=True)
    ]
    if not versions:
        raise UserError(f"there is no model '{model}'; there are: {', '.join(model_names(store))}")
    rows = [
        [
            str(v["version"]),
            "-" if v["AP"] is None else f"{v['AP']:.4f}",
            v["dataset_digest"][:12] or "-",
            v["registered_at"],
            f"{v['size'] / 1e6:.1f} MB",
            " ".join(v["channels"]),
        ]
        for v in versions
    ]
    header = ["version", "AP", "dataset", "registered", "weights", "channels"]
    return format_rows(header, rows), versions


@registry.command()
@click.argument("reference", metavar="MODEL@VERSION|MODEL@CHANNEL")
@on_store
def show(store: Store, reference: str) -> Any:
    """Print the manifest of a version."""
    from sdpose.registry.pull import resolve

    version = resolve(store, reference)
    lines = []
    for key, value in version.manifest.items():
        shown = value if isinstance(value, str | int | float | None) else json.dumps(value)
        if key == "experiment":
            shown = "\n  " + str(value).replace("\n", "\n  ").rstrip()
        lines.append(f"{key}: {shown}")
    return "\n".join(lines), version.manifest | {"manifest_sha256": version.manifest_sha256}


@registry.command()
@click.argument("first", metavar="MODEL@VERSION")
@click.argument("second", metavar="MODEL@VERSION")
@on_store
def diff(store: Store, first: str, second: str) -> Any:
    """Print the settings and figures in which two versions differ."""
    from sdpose.config import experiment_differences
    from sdpose.registry.gates import experiment_of
    from sdpose.registry.pull import resolve

    old, new = resolve(store, first), resolve(store, second)
    differences = experiment_differences(experiment_of(old), experiment_of(new))
    for section in ("metrics", "evaluation_settings", "weights", "git"):
        before, after = old.manifest[section], new.manifest[section]
        for key in [*before, *(key for key in after if key not in before)]:
            if before.get(key) != after.get(key):
                differences[f"{section}.{key}"] = (before.get(key), after.get(key))
    for key in ("dataset_digest", "image"):
        if old.manifest[key] != new.manifest[key]:
            differences[key] = (old.manifest[key], new.manifest[key])
    lines = [f"{k}: {json.dumps(a)} -> {json.dumps(b)}" for k, (a, b) in differences.items()]
    return "\n".join(lines) or "no difference", {k: list(v) for k, v in differences.items()}


@registry.command()
@click.argument("model")
@click.argument("version", type=click.IntRange(1))
@channel_option
@approver_option
@comment_option
@click.option("--exp", help="Take the gates of this experiment, as its file is now.")
@click.option("--data-root", metavar="DIR", help="Validation set, if it is evaluated again.")
@on_store
def promote(
    store: Store,
    model: str,
    version: int,
    channel: str,
    approver: str | None,
    comment: str,
    exp: str | None,
    data_root: str | None,
) -> Any:
    """Point a channel at VERSION of MODEL, if the gates allow it.

    The gates are the `promotion` section of the experiment that the version was registered with.
    Every attempt is recorded. Exit code 1: refused.
    """
    from sdpose.config import load_experiment
    from sdpose.registry import promote as promotion

    record = promotion.promote(
        store,
        model,
        version,
        channel,
        approver=approver or promotion.default_approver(),
        comment=comment,
        rules=load_experiment(exp).promotion if exp else None,
        data_root=data_root,
        say=_warn,
    )
    return promotion.explain(record), record, 0 if record["allowed"] else REFUSED


@registry.command()
@click.argument("model")
@channel_option
@approver_option
@comment_option
@on_store
def rollback(store: Store, model: str, channel: str, approver: str | None, comment: str) -> Any:
    """Point a channel of MODEL back at the version before; no gate is asked."""
    from sdpose.registry import promote as promotion

    record = promotion.rollback(
        store,
        model,
        channel,
        approver=approver or promotion.default_approver(),
        comment=comment,
        say=_warn,
    )
    return promotion.explain(record), record


@registry.command("history")
@click.argument("model")
@click.option("--channel", type=click.Choice(CHANNELS), help="[default: all]")
@on_store
def history_(store: Store, model: str, channel: str | None) -> Any:
    """Print every promotion, refusal and rollback of MODEL, in order."""
    from sdpose.registry.channels import history, refusals

    chosen = [channel] if channel else list(CHANNELS)
    records = [
        record
        for name in chosen
        for record in (*history(store, model, name), *refusals(store, model, name))
    ]
    records.sort(key=lambda record: record["at"])
    rows = [
        [
            r["at"],
            r["channel"],
            str(r.get("generation", "-")),
            f"{r['previous_version'] or '-'} -> {r['version']}",
            r["action"] if r["allowed"] else "refused",
            r["approver"],
            "; ".join(v["reason"] for v in r["gates"] if not v["passed"]) or r["comment"],
        ]
        for r in records
    ]
    header = ["at", "channel", "generation", "version", "action", "by", "why"]
    return format_rows(header, rows) if rows else "nothing was promoted yet", records


@registry.command()
@click.argument("reference", metavar="MODEL@CHANNEL|MODEL@VERSION")
@click.argument("out", type=click.Path(path_type=Path))
@on_store
def pull(store: Store, reference: str, out: Path) -> Any:
    """Bring the weights to the file (or into the folder) OUT, checked byte by byte.

    The manifest comes along as OUT.json. A broken transfer is resumed; OUT is replaced when it is
    complete.
    """
    from sdpose.registry.pull import pull as bring

    pulled = bring(store, reference, out)
    version = pulled.version
    text = f"{version.model_name} version {version.version}: {pulled.weights} ({version.sha256})"
    return text, _plain(version) | {
        "weights": str(pulled.weights),
        "manifest": str(pulled.manifest),
    }


@registry.command()
@click.argument("model", required=False)
@on_store
def verify(store: Store, model: str | None) -> Any:
    """Read every byte of the registry (of MODEL) and name what is damaged.

    Exit code 1: something is.
    """
    from sdpose.data.progress import ConsoleProgress
    from sdpose.registry.upkeep import verify as check

    with ConsoleProgress("verifying", "objects") as progress:
        problems = check(store, model, progress)
    lines = [f"{problem.uri}: {problem.what}" for problem in problems]
    value = [{"uri": problem.uri, "problem": problem.what} for problem in problems]
    return "\n".join(lines) or "everything is as it was written", value, REFUSED if problems else 0


@registry.command()
@click.option("--delete", is_flag=True, help="Do it; otherwise only say what would be done.")
@click.option(
    "--grace-hours",
    type=click.FloatRange(0),
    default=24.0,
    show_default=True,
    help="How long a blob stays after it was first found unreferenced.",
)
@on_store
def gc(store: Store, delete: bool, grace_hours: float) -> Any:
    """Remove weights that no version names, and what interrupted uploads left.

    Weights are marked by the first call and deleted by a later one, after the grace.
    """
    from sdpose.registry.upkeep import gc as collect

    done = collect(store, grace=timedelta(hours=grace_hours), dry_run=not delete)
    text = "\n".join(
        f"{'' if delete else 'would be '}{what}: {len(items)}" + "".join(f"\n  {i}" for i in items)
        for what, items in {
            "marked": done.marked,
            "kept for the grace": done.waiting,
            "deleted": done.deleted,
            "deleted leftovers": done.leftovers,
        }.items()
    )
    if not delete:
        text += "\nnothing was changed; --delete does it"
    value = {key: list(items) for key, items in vars(done).items()}
    return text, value | {"dry_run": not delete}


@registry.command()
@click.argument("model", required=False)
@click.option("--dry-run", is_flag=True, help="Only say what would be mended.")
@on_store
def reconcile(store: Store, model: str | None, dry_run: bool) -> Any:
    """Make MLflow show what the registry holds: versions, tags, aliases."""
    from sdpose.registry.catalogue import reconcile as mend
    from sdpose.registry.versions import model_names
    from sdpose.tracking import is_configured

    if not is_configured():
        raise UserError("MLFLOW_TRACKING_URI is not set: there is no MLflow to reconcile with")
    names = [model] if model else model_names(store)
    repairs = [repair for name in names for repair in mend(store, name, dry_run=dry_run)]
    verb = "to mend" if dry_run else "mended"
    lines = [f"{verb}: {repair.model_name}: {repair.what}" for repair in repairs]
    value = [{"model_name": repair.model_name, "what": repair.what} for repair in repairs]
    return "\n".join(lines) or "MLflow shows what the registry holds", value


def _warn(text: str) -> None:
    click.echo(text, err=True)
