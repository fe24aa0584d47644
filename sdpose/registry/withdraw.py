"""Withdraws a version: takes it out of use, permanently."""

from __future__ import annotations

from sdpose import tracking
from sdpose.errors import UserError
from sdpose.registry import mlflow_mirror
from sdpose.registry.channels import current, history
from sdpose.registry.layout import CHANNELS, check_model_name, manifest_key
from sdpose.registry.versions import read_index, read_version, version_numbers
from sdpose.registry.withdrawals import (
    Withdrawal,
    add_withdrawal,
    read_withdrawals,
    remove_withdrawal,
)
from sdpose.storage import Store


def withdraw(
    store: Store,
    model_name: str,
    version: int,
    *,
    reason: str,
    approver: str,
) -> Withdrawal:
    """Takes a version out of use: it cannot be pulled or promoted, and `gc` may remove its weights.

    Its manifest stays, its number is not used again, and the same content registered again is a new
    version. The manifest may be missing or damaged.

    Returns:
        The withdrawal; the earlier one if it was withdrawn before.
    Raises:
        UserError: there is no such version, or a channel points at it.
    """
    if not reason.strip():
        raise UserError("a withdrawal needs a reason: --reason TEXT")
    known = read_withdrawals(store, check_model_name(model_name)).get(version)
    if known is not None:
        return known
    _check_exists(store, model_name, version)
    _refuse_channels(store, model_name, version)
    withdrawal = add_withdrawal(
        store, model_name, version, reason=" ".join(reason.split()), approver=approver
    )
    try:
        _refuse_channels(store, model_name, version)  # see channels._check_withdrawn
    except UserError:
        remove_withdrawal(store, model_name, withdrawal)
        raise
    if tracking.is_configured():
        with mlflow_mirror.tolerate_outage():
            mlflow_mirror.hide_version(store, model_name, version)
    return withdrawal


def _check_exists(store: Store, model_name: str, version: int) -> None:
    """Raises UserError unless the version exists or existed.

    A lost manifest leaves later versions, a row in the index, or records of a channel.
    """
    if store.exists(manifest_key(model_name, version)):
        return
    traces = {*range(1, max(version_numbers(store, model_name), default=0))}
    traces |= read_index(store, model_name).keys()
    for channel in CHANNELS:
        traces |= {record["version"] for record in history(store, model_name, channel)}
    if version not in traces:
        read_version(store, model_name, version)  # says which ones there are


def _refuse_channels(store: Store, model_name: str, version: int) -> None:
    pointers = {channel: current(store, model_name, channel) for channel in CHANNELS}
    using = [c for c, record in pointers.items() if record and record["version"] == version]
    if using:
        raise UserError(
            f"{model_name} version {version} is in use: {', '.join(using)} "
            f"point{'s' if len(using) == 1 else ''} at it; promote another version or roll back "
            "first"
        )
