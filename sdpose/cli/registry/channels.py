"""`sdpose registry promote | rollback | history | withdraw`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sdpose.cli.registry.store import (
    REFUSED,
    allow_older_option,
    on_store,
    public_key_option,
    sign_option,
)
from sdpose.cli.text import format_rows
from sdpose.registry.layout import CHANNELS, MAX_VERSION
from sdpose.storage import Store

channel_option = click.option("--channel", type=click.Choice(CHANNELS), required=True)
version_argument = click.argument("version", type=click.IntRange(1, MAX_VERSION))
comment_option = click.option("--comment", default="", help="Recorded with the move.")
approver_option = click.option(
    "--approver", metavar="NAME", help="Recorded with the move [default: $SDPOSE_APPROVER, or you]."
)


@click.command()
@click.argument("model")
@version_argument
@channel_option
@approver_option
@comment_option
@click.option("--exp", help="Take the gates of this experiment, as its file is now.")
@click.option("--data-root", metavar="DIR", help="Validation set, if it is evaluated again.")
@sign_option
@public_key_option
@allow_older_option
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
    key: Path | None,
    public_key: Path | None,
    allow_older: bool,
) -> Any:
    """Point a channel at VERSION of MODEL, if the gates allow it.

    The gates are the `promotion` section of the experiment that the version was registered with.
    Every attempt is recorded. Exit code 1: refused. With a public key, VERSION and the channel's
    present pointer must be signed, and the move must be (--sign).
    """
    from sdpose.config import load_experiment
    from sdpose.registry import promote as promotion
    from sdpose.registry.signatures import signer_of, verifier_of

    record = promotion.promote(
        store,
        model,
        version,
        channel,
        approver=approver or promotion.default_approver(),
        comment=comment,
        rules=load_experiment(exp).promotion if exp else None,
        data_root=data_root,
        signer=signer_of(key),
        verifier=verifier_of(public_key, allow_older=allow_older),
    )
    return promotion.explain(record), record, 0 if record["allowed"] else REFUSED


@click.command()
@click.argument("model")
@channel_option
@approver_option
@comment_option
@sign_option
@public_key_option
@allow_older_option
@on_store
def rollback(
    store: Store,
    model: str,
    channel: str,
    approver: str | None,
    comment: str,
    key: Path | None,
    public_key: Path | None,
    allow_older: bool,
) -> Any:
    """Point a channel of MODEL back at the version before; no gate is asked."""
    from sdpose.registry import promote as promotion
    from sdpose.registry.signatures import signer_of, verifier_of

    record = promotion.rollback(
        store,
        model,
        channel,
        approver=approver or promotion.default_approver(),
        comment=comment,
        signer=signer_of(key),
        verifier=verifier_of(public_key, allow_older=allow_older),
    )
    return promotion.explain(record), record


@click.command()
@click.argument("model")
@version_argument
@click.option("--reason", required=True, help="Recorded, and shown to whoever asks for it.")
@approver_option
@on_store
def withdraw(store: Store, model: str, version: int, reason: str, approver: str | None) -> Any:
    """Take VERSION of MODEL out of use, for good.

    Nobody pulls or promotes it any more, and `gc` removes its weights unless another version has
    them. Its number is not used again. Refused while a channel points at it.
    """
    from sdpose.registry import promote as promotion
    from sdpose.registry.withdraw import withdraw as take_out
    from sdpose.registry.withdrawals import explain_withdrawal

    withdrawal = take_out(
        *(store, model, version),
        reason=reason,
        approver=approver or promotion.default_approver(),
    )
    return explain_withdrawal(model, withdrawal), {"model_name": model, **withdrawal}


@click.command("history")
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
