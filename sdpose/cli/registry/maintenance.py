"""`sdpose registry verify | gc | reconcile`."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from sdpose.cli.registry.store import REFUSED, on_store, public_key_option
from sdpose.errors import UserError
from sdpose.storage import Store


@click.command()
@click.argument("model", required=False)
@public_key_option
@on_store
def verify(store: Store, model: str | None, public_key: Path | None) -> Any:
    """Read every byte of the registry (of MODEL) and name what is damaged.

    Exit code 1: something is.
    """
    from sdpose.progress_bar import ConsoleProgress
    from sdpose.registry.signatures import verifier_of
    from sdpose.registry.verify import verify as check

    verifier = verifier_of(public_key)
    with ConsoleProgress("verifying", "objects") as progress:
        problems = check(store, model, progress, verifier)
    lines = [f"{problem.uri}: {problem.what}" for problem in problems]
    value = [{"uri": problem.uri, "problem": problem.what} for problem in problems]
    return "\n".join(lines) or "everything is as it was written", value, REFUSED if problems else 0


@click.command()
@click.option("--delete", is_flag=True, help="Do it; otherwise only say what would be done.")
@click.option(
    "--restore", is_flag=True, help="Put everything in the trash back, and remove nothing."
)
@click.option(
    "--grace-hours",
    type=click.FloatRange(0),
    default=24.0,
    show_default=True,
    help="How long weights stay marked, and again in the trash; leftovers stay an hour.",
)
@on_store
def gc(store: Store, delete: bool, restore: bool, grace_hours: float) -> Any:
    """Remove weights that no version names, and what interrupted uploads left.

    A first call marks weights, a later one moves them to the trash (gc/trash in the registry), and
    a later one deletes them for good, each after the grace period. What a version in MLflow names
    stays as well; with MLFLOW_TRACKING_URI set, MLflow must answer. Nothing is removed if
    manifests, index and channels do not agree.
    """
    from sdpose.registry.gc import gc as collect
    from sdpose.registry.gc import restore as put_back
    from sdpose.registry.mlflow_mirror import named_weights

    if delete and restore:
        raise UserError("give --delete or --restore, not both")
    if restore:
        restored = put_back(store)
        text = "\n  ".join([f"restored from the trash: {len(restored)}", *restored])
        return text, {"restored": restored}
    done = collect(
        store,
        grace=timedelta(hours=grace_hours),
        dry_run=not delete,
        named_elsewhere=named_weights(),
    )
    text = "\n".join(
        f"{'' if delete else 'would be '}{what}: {len(items)}" + "".join(f"\n  {i}" for i in items)
        for what, items in {
            "marked": done.marked,
            "kept for the grace period": done.waiting,
            "moved to the trash": done.trashed,
            "deleted from the trash": done.deleted,
            "restored from the trash": done.restored,
            "deleted leftovers": done.leftovers,
        }.items()
    )
    if not delete:
        text += "\nnothing was changed; --delete does it"
    value = {key: list(items) for key, items in vars(done).items()}
    return text, value | {"dry_run": not delete}


@click.command()
@click.argument("model", required=False)
@click.option("--dry-run", is_flag=True, help="Only say what would be repaired.")
@on_store
def reconcile(store: Store, model: str | None, dry_run: bool) -> Any:
    """Make MLflow show what the registry holds: versions, tags, aliases."""
    from sdpose.registry.mlflow_mirror import reconcile as repair_drift
    from sdpose.registry.versions import model_names
    from sdpose.tracking import is_configured

    if not is_configured():
        raise UserError("MLFLOW_TRACKING_URI is not set: there is no MLflow to reconcile with")
    names = [model] if model else model_names(store)
    repairs = [repair for name in names for repair in repair_drift(store, name, dry_run=dry_run)]
    verb = "to repair" if dry_run else "repaired"
    lines = [f"{verb}: {repair.model_name}: {repair.what}" for repair in repairs]
    value = [{"model_name": repair.model_name, "what": repair.what} for repair in repairs]
    return "\n".join(lines) or "MLflow shows what the registry holds", value
