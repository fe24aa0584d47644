"""The document of a model's withdrawn versions.

It is separate from the manifests, which never change. A withdrawn version keeps its number.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sdpose.errors import UserError
from sdpose.registry.documents import Withdrawals, decode, document, new_document
from sdpose.registry.layout import check_model_name, withdrawals_key
from sdpose.storage import DamagedObjectError, Store, Tag

Withdrawal = dict[str, Any]
TRIES = 100


def read_withdrawals(store: Store, model_name: str) -> dict[int, Withdrawal]:
    """The withdrawals by version.

    Raises:
        DamagedObjectError: the document is damaged, so it is unknown which versions may be used.
    """
    return _read(store, model_name)[0]


def explain_withdrawal(model_name: str, withdrawal: Withdrawal) -> str:
    return (
        f"{model_name} version {withdrawal['version']} was withdrawn by {withdrawal['approver']} "
        f"on {withdrawal['at'][:10]}: {withdrawal['reason']}"
    )


def add_withdrawal(
    store: Store, model_name: str, version: int, *, reason: str, approver: str
) -> Withdrawal:
    """Adds a withdrawal; returns the earlier one if there is one."""
    new = {
        "version": version,
        "reason": reason,
        "approver": approver,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    known = _change(store, model_name, lambda known: {version: new} | known)
    return known[version]


def remove_withdrawal(store: Store, model_name: str, withdrawal: Withdrawal) -> None:
    """Removes a withdrawal that was refused after it was written."""
    _change(
        store,
        model_name,
        lambda known: {n: each for n, each in known.items() if each != withdrawal},
    )


def _change(store: Store, model_name: str, change: Any) -> dict[int, Withdrawal]:
    key = withdrawals_key(model_name)
    for _ in range(TRIES):
        known, tag = _read(store, model_name)
        changed = dict(sorted(change(known).items()))
        if changed == known:
            return known
        content = {"model_name": model_name, "withdrawals": list(changed.values())}
        data = document(new_document(Withdrawals, content))
        if store.put_if_absent(key, data) if tag is None else store.swap(key, data, tag):
            return changed
    raise UserError(f"{store.uri(key)} was changed by others {TRIES} times; try again")


def _read(store: Store, model_name: str) -> tuple[dict[int, Withdrawal], Tag | None]:
    key = withdrawals_key(check_model_name(model_name))
    found = store.read_tagged(key)
    if found is None:
        return {}, None
    data, tag = found
    content = decode(Withdrawals, data, store.uri(key))
    if content["model_name"] != model_name:
        raise DamagedObjectError(f"{store.uri(key)} is damaged: it is of {content['model_name']}")
    return {each["version"]: each for each in content["withdrawals"]}, tag
