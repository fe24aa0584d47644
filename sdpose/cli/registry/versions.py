"""`sdpose registry register | sign | list | show | diff | pull`."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdpose.cli.registry.channels import approver_option
from sdpose.cli.registry.store import (
    allow_older_option,
    on_store,
    public_key_option,
    sign_option,
    warn,
)
from sdpose.cli.text import format_rows, shorten
from sdpose.documents import read_json
from sdpose.errors import UserError
from sdpose.registry.layout import CHANNELS
from sdpose.storage import Store

if TYPE_CHECKING:
    from sdpose.registry.register_run import EvaluatedRun


LIST_WIDTH = 100


@click.command()
@click.argument("model")
@click.argument(
    "source", metavar="WORK_DIR|CHECKPOINT", type=click.Path(path_type=Path, exists=True)
)
@click.option(
    "--metrics",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="F.json",
    help="Of its evaluation: the .metrics.json that `sdpose test --out` writes.",
)
@click.option("--exp", help="The experiment, for checkpoints that do not name theirs.")
@click.option("--dataset-digest", default="", help="Of the evaluation's data (`sdpose prepare`).")
@click.option("--mlflow-run", metavar="ID", help="The training's run.")
@sign_option
@on_store
def register(
    store: Store,
    model: str,
    source: Path,
    metrics: Path | None,
    exp: str | None,
    dataset_digest: str,
    mlflow_run: str | None,
    key: Path | None,
) -> Any:
    """Upload weights and announce them as a version of MODEL.

    Of a WORK_DIR they are those of the checkpoint that the pipeline has evaluated, with its AP,
    dataset, evaluation settings and MLflow run, as the work dir's summary.json has them; so they
    are if CHECKPOINT is that file. The same content is the same version, however often it is
    registered.
    """
    from sdpose.config import load_experiment, parse_experiment
    from sdpose.models.transfer import with_skeleton_of
    from sdpose.models.weights import read_checkpoint
    from sdpose.registry.register import register_checkpoint
    from sdpose.registry.signatures import signer_of

    signer = signer_of(key)
    run = _evaluated(source)
    checkpoint = run.checkpoint if run else source
    _, meta = read_checkpoint(checkpoint)
    if exp is not None:
        experiment = with_skeleton_of(load_experiment(exp), checkpoint, meta)
    elif "experiment" in meta:
        experiment = parse_experiment(meta["experiment"], source=str(checkpoint))
    else:
        raise UserError(f"{checkpoint} does not say which experiment it is of: give --exp NAME")
    values, settings, digest = {}, {}, ""
    if run is not None:
        values, settings = dict(run.metrics), dict(run.evaluation_settings)
        digest, mlflow_run = run.dataset_digest, mlflow_run or run.mlflow_run_id
    if metrics is not None:
        values, settings, digest = read_metrics(metrics)
    if dataset_digest and digest not in ("", dataset_digest):
        raise UserError(
            f"--dataset-digest is {dataset_digest[:12]}, and {metrics or source} is of an "
            f"evaluation on {digest[:12]}: leave the option out, or evaluate on that dataset"
        )
    digest = dataset_digest or digest or str(meta.get("dataset_digest", ""))
    _say_what_is_missing({"AP": values.get("AP"), "dataset": digest, "settings": settings})
    version = register_checkpoint(
        model,
        checkpoint,
        experiment=experiment,
        dataset_digest=digest,
        evaluation_settings=settings,
        metrics=values,
        mlflow_run_id=mlflow_run or meta.get("mlflow_run_id"),
        git_commit=run.git_commit if run else None,
        root=store,
        signer=signer,
    )
    again = "" if version.created else " (the same content was there)"
    return f"{model} version {version.version}{again}: {version.weights_uri}", _plain(version)


def _evaluated(source: Path) -> EvaluatedRun | None:
    """What the work dir says, for a work dir or the checkpoint that was evaluated there."""
    from sdpose.registry.register_run import SUMMARY, evaluated_run

    if source.is_dir():
        return evaluated_run(source)
    with contextlib.suppress(UserError):
        if (source.parent / SUMMARY).is_file():
            run = evaluated_run(source.parent)
            return run if run.checkpoint.samefile(source) else None
    return None


def _say_what_is_missing(known: dict[str, Any]) -> None:
    lacking = {
        "AP": "AP, without which no channel takes the version",
        "dataset": "dataset digest",
        "settings": "evaluation settings, without which its AP is not compared with another's",
    }
    missing = [text for key, text in lacking.items() if known[key] in (None, "", {})]
    if missing:
        warn(
            f"warning: registered without {'; '.join(missing)}. The work dir of an evaluated run "
            "has them all; for a checkpoint give --metrics and --dataset-digest"
        )


def read_metrics(path: Path) -> tuple[dict[str, float], dict[str, Any], str]:
    """Figures, evaluation settings and dataset digest of a .metrics.json."""
    from sdpose.registry.documents import check_metrics

    content = read_json(path)
    try:
        values = dict(content)
        settings, digest = values.pop("settings", {}), values.pop("dataset_digest", "")
        if not values:
            raise ValueError("it holds no figure")
        if not isinstance(settings, dict) or not isinstance(digest, str):
            raise ValueError("`settings` has to be an object and `dataset_digest` a text")
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path}: {error}; expected an object of figures such as the .metrics.json beside the "
            "file that `sdpose test --out` writes"
        ) from None
    return check_metrics(values, str(path)), settings, digest


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


@click.command()
@click.argument("reference", metavar="MODEL@VERSION|MODEL@CHANNEL")
@click.option("--key", type=click.Path(path_type=Path), metavar="KEY.pem")
@approver_option
@on_store
def sign(store: Store, reference: str, key: Path | None, approver: str | None) -> Any:
    """Sign the manifest of a version with the private EC key KEY.pem.

    The manifest names the digest of the weights. With MODEL@CHANNEL the pointer is signed as well,
    as a new generation of the same version: whoever signs vouches for that version being there,
    whoever put it there. Default of --key: $SDPOSE_SIGNING_KEY; an encrypted key's password is in
    $SDPOSE_SIGNING_PASSWORD.

    `pull` and `verify` check it with --public-key, as does
    `model_signing verify key OUT.json --signature OUT.sig --public_key PUBLIC.pem`.
    """
    from sdpose.registry.channels import sign as sign_channel
    from sdpose.registry.promote import default_approver
    from sdpose.registry.pull import resolve
    from sdpose.registry.signatures import SIGNING_KEY_VARIABLE, signer_of

    signer = signer_of(key)
    if signer is None:
        raise UserError(f"no key to sign with: give --key KEY.pem, or set {SIGNING_KEY_VARIABLE}")
    version = resolve(store, reference)
    signer.sign(store, version)
    text = f"{version.model_name} version {version.version}: signed"
    channel = reference.partition("@")[2]
    if channel not in CHANNELS:
        return text, _plain(version)
    record = sign_channel(
        store,
        version,
        channel,
        signer=signer,
        approver=approver or default_approver(),
    )
    text += f"\n{channel}: signed (generation {record['generation']})"
    return text, _plain(version) | {"pointer": record}


@click.command("list")
@click.argument("model", required=False)
@on_store
def list_(store: Store, model: str | None) -> Any:
    """List the models, or the versions of MODEL: AP, experiment, dataset, channels; best first."""
    from sdpose.registry.channels import current
    from sdpose.registry.versions import model_names, summarize
    from sdpose.registry.withdrawals import read_withdrawals

    def channels_of(name: str) -> dict[str, int]:
        records = {channel: current(store, name, channel) for channel in CHANNELS}
        return {channel: record["version"] for channel, record in records.items() if record}

    if model is None:
        models = {name: channels_of(name) for name in model_names(store)}
        rows = [[n, " ".join(f"{c}={v}" for c, v in ch.items())] for n, ch in models.items()]
        return format_rows(["model", "channels"], rows), models
    channels = channels_of(model)
    withdrawn = read_withdrawals(store, model)
    versions = [
        {"problem": None}
        | summary
        | {
            "channels": [c for c, v in channels.items() if v == summary["version"]],
            "withdrawn": withdrawn.get(summary["version"]),
        }
        for summary in summarize(store, model, by_index=True, withdrawn=withdrawn, tolerant=True)
    ]
    if not versions:
        names = ", ".join(model_names(store)) or "none: the registry is empty"
        raise UserError(f"there is no model '{model}'; there are: {names}")
    versions.sort(key=lambda v: (v["withdrawn"] is None, v["AP"] or -1.0, v["version"]))
    versions.reverse()
    return _leaderboard(versions), versions


def _leaderboard(versions: list[dict[str, Any]]) -> str:
    """A table of at most LIST_WIDTH columns, and what is to be said of single versions below."""
    channels = [" ".join(v["channels"]) or "-" for v in versions]
    others = len("version  AP        dataset   registered  ") + max(
        map(len, ["channels", *channels])
    )
    rows = [
        [
            str(v["version"]),
            "-" if v["AP"] is None else f"{v['AP']:.4f}",
            shorten(v["exp_name"] or "-", LIST_WIDTH - others),
            v["dataset_digest"][:8] or "-",
            v["registered_at"][:10] or "-",
            channel,
        ]
        for v, channel in zip(versions, channels, strict=True)
    ]
    lines = [
        format_rows(["version", "AP", "experiment", "dataset", "registered", "channels"], rows)
    ]
    for v in versions:
        if v["withdrawn"]:
            lines.append(f"version {v['version']} is withdrawn: {v['withdrawn']['reason']}")
        elif v["problem"]:
            lines.append(f"version {v['version']}: {v['problem']}")
    evaluated = ("dataset_digest", "evaluation_settings_digest")
    if len({tuple(v[k] for k in evaluated) for v in versions if v["AP"] is not None}) > 1:
        lines.append(
            "AP of other data or other evaluation settings does not compare; `promote` evaluates "
            "the channel's version again then"
        )
    return "\n".join(lines)


@click.command()
@click.argument("reference", metavar="MODEL@VERSION|MODEL@CHANNEL")
@on_store
def show(store: Store, reference: str) -> Any:
    """Print the manifest of a version."""
    from sdpose.registry.pull import resolve
    from sdpose.registry.withdrawals import explain_withdrawal, read_withdrawals

    version = resolve(store, reference, also_withdrawn=True)
    withdrawn = read_withdrawals(store, version.model_name).get(version.version)
    lines = [explain_withdrawal(version.model_name, withdrawn)] if withdrawn else []
    for key, value in version.manifest.items():
        shown = value if isinstance(value, str | int | float | None) else json.dumps(value)
        if key == "experiment":
            shown = "\n  " + str(value).replace("\n", "\n  ").rstrip()
        lines.append(f"{key}: {shown}")
    value = version.manifest | {"manifest_sha256": version.manifest_sha256}
    return "\n".join(lines), value | {"withdrawn": withdrawn}


@click.command()
@click.argument("first", metavar="MODEL@VERSION")
@click.argument("second", metavar="MODEL@VERSION")
@on_store
def diff(store: Store, first: str, second: str) -> Any:
    """Print the settings and figures in which two versions differ."""
    from sdpose.config import experiment_differences
    from sdpose.registry.gates import experiment_of
    from sdpose.registry.pull import resolve

    old, new = (resolve(store, each, also_withdrawn=True) for each in (first, second))
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


@click.command()
@click.argument("reference", metavar="MODEL@CHANNEL|MODEL@VERSION")
@click.argument("out", type=click.Path())
@public_key_option
@allow_older_option
@on_store
def pull(store: Store, reference: str, out: str, public_key: Path | None, allow_older: bool) -> Any:
    """Bring the weights to the file OUT (or into the folder OUT/), checked byte by byte.

    The manifest comes along as OUT.json, its signature as OUT.sig. A broken transfer is resumed;
    OUT is replaced when it is complete. With a public key, version and pointer must be signed, and
    the pointer no older than one that this machine has seen.
    """
    from sdpose.registry.pull import pull as bring
    from sdpose.registry.signatures import verifier_of

    pulled = bring(store, reference, out, verifier_of(public_key, allow_older=allow_older))
    version = pulled.version
    text = f"{version.model_name} version {version.version}: {pulled.weights} ({version.sha256})"
    return text, _plain(version) | {
        "weights": str(pulled.weights),
        "manifest": str(pulled.manifest),
        "signature": pulled.signature and str(pulled.signature),
    }
