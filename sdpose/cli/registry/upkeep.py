"""`sdpose registry verify | gc | reconcile`."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from sdpose.cli.registry.store import REFUSED, on_store, public_key_option, verifier_of
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
    from sdpose.data.progress import ConsoleProgress
    from sdpose.registry.upkeep import verify as check

    verifier = verifier_of(public_key)
    with ConsoleProgress("verifying", "objects") as progress:
        problems = check(store, model, progress, verifier)
    lines = [f"{problem.uri}: {problem.what}" for problem in problems]
    value = [{"uri": problem.uri, "problem": problem.what} for problem in problems]
    return "\n".join(lines) or "everything is as it was written", value, REFUSED if problems else 0


@click.command()
@click.option("--delete", is_flag=True, help="Do it; otherwise only say what would be done.")
@click.option(
    "--grace-hours",
    type=click.FloatRange(0),
    default=24.0,
    show_default=True,
    help="How long a blob stays after it was first found unreferenced; leftovers stay an hour.",
)
@on_store
def gc(store: Store, delete: bool, grace_hours: float) -> Any:
    """Remove weights that no version names, and what interrupted uploads left.

    Weights are marked by the first call and deleted by a later one, after the grace. What a version
    in MLflow names stays as well; with MLFLOW_TRACKING_URI set, MLflow must answer.
    """
    from sdpose.registry.catalogue import named_weights
    from sdpose.registry.upkeep import gc as collect

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
            "kept for the grace": done.waiting,
            "deleted": done.deleted,
            "deleted leftovers": done.leftovers,
        }.items()
    )
    if not delete:
        text += "\nnothing was changed; --delete does it"
    value = {key: list(items) for key, items in vars(done).items()}
    return text, value | {"dry_run": not delete}


@click.command()
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
