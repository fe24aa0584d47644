"""Promotions and rollbacks, with gates and MLflow's alias, for command line and pipeline."""

from __future__ import annotations

import os
from typing import Any

from sdpose import tracking
from sdpose.config import Experiment
from sdpose.config.schema import Promotion
from sdpose.registry import channels, mlflow_mirror
from sdpose.registry.channels import Gates, Record
from sdpose.registry.gates import gates_for
from sdpose.registry.layout import registry_root
from sdpose.registry.register import RUN_ID_VARIABLE
from sdpose.registry.register_run import model_of, read_summary, write_summary
from sdpose.registry.signatures import Signer, Verifier, signer_of, verifier_of
from sdpose.registry.versions import read_version
from sdpose.registry.withdrawals import read_withdrawals
from sdpose.storage import Store, open_store
from sdpose.training.paths import run_paths


def promote(
    store: Store,
    model_name: str,
    version: int,
    channel: str,
    *,
    approver: str,
    comment: str = "",
    rules: Promotion | None = None,
    data_root: str | None = None,
    data_source: str = "",
    signer: Signer | None = None,
    verifier: Verifier | None = None,
) -> Record:
    """Points a channel at a version if the gates allow it, and moves MLflow's alias with it.

    If MLflow does not answer, a warning is logged, and `reconcile` repairs the alias later.

    Args:
        rules: the thresholds; default: those of the experiment that the version was registered
            with.
        data_root, data_source: see `gates_for`.
        signer: signs the move.
        verifier: the version, the channel's present pointer and its version must be signed by its
            key, and so must the move.
    Returns:
        The record of the decision (`allowed`) and its reasons (`gates`); refusals are stored too.
    """
    chosen = read_version(store, model_name, version)
    gates: Gates = channels.no_gates
    if version not in read_withdrawals(store, model_name):  # its weights may be gone
        gates = gates_for(store, chosen, rules=rules, data_root=data_root, data_source=data_source)
    if verifier is not None:
        verifier.check(store, chosen)
        gates = _against_what_was_signed(store, verifier, gates)
    record = channels.set_channel(
        store,
        chosen,
        channel,
        action="promote",
        approver=approver,
        comment=comment,
        gates=gates,
        signer=signer,
        verifier=verifier,
    )
    if record["allowed"]:
        _mirror_alias(store, model_name, channel)
    return record


def _against_what_was_signed(store: Store, verifier: Verifier, gates: Gates) -> Gates:
    """Gates that verify the present version first: an altered manifest could lower its metrics."""

    def checked(present: Record | None) -> list[dict[str, Any]]:
        if present is not None:
            version = read_version(store, present["model_name"], present["version"])
            verifier.check(store, version)
            channels.check_promoted(version, present)
        return gates(present)

    return checked


def rollback(
    store: Store,
    model_name: str,
    channel: str,
    *,
    approver: str,
    comment: str = "",
    signer: Signer | None = None,
    verifier: Verifier | None = None,
) -> Record:
    """Points a channel at the version before, see `channels.rollback`, and MLflow's alias, too."""
    record = channels.rollback(
        store,
        model_name,
        channel,
        approver=approver,
        comment=comment,
        signer=signer,
        verifier=verifier,
    )
    _mirror_alias(store, model_name, channel)
    return record


def _mirror_alias(store: Store, model_name: str, channel: str) -> None:
    if tracking.is_configured():
        with mlflow_mirror.tolerate_outage():
            mlflow_mirror.mirror_alias(store, model_name, channel)


def promote_run(
    experiment: Experiment, version: int, channel: str, *, approver: str, data_source: str
) -> Record:
    """Promotes the version of a pipeline run, and adds the outcome to the work dir's summary.

    The rules are those of this run: the version may have been registered by an earlier one.
    """
    record = promote(
        open_store(registry_root()),
        model_of(experiment),
        version,
        channel,
        approver=approver,
        comment=f"pipeline run {os.environ.get(RUN_ID_VARIABLE, 'on this machine')}",
        rules=experiment.promotion,
        data_root=experiment.data_root,
        data_source=data_source,
        signer=signer_of(),
        verifier=verifier_of(),
    )
    work_dir = run_paths(experiment).work_dir
    write_summary(work_dir, read_summary(work_dir) | {"promotion": record})
    return record


def explain(record: Record) -> str:
    """The verdict of every gate, a line each, and the outcome for the channel."""
    lines = [
        f"  {'ok' if v['passed'] else 'NO':<3} {v['gate']}: {v['reason']}" for v in record["gates"]
    ]
    what = f"{record['model_name']} version {record['version']}"
    if record["allowed"]:
        lines.append(f"{record['channel']} is {what} (generation {record['generation']})")
    else:
        lines.append(f"refused: {what} does not become {record['channel']}; recorded")
    return "\n".join(lines)


def objections(record: Record) -> str:
    """The reasons of the gates that refused."""
    return "; ".join(f"{v['gate']}: {v['reason']}" for v in record["gates"] if not v["passed"])


def default_approver() -> str:
    """Who runs this: $SDPOSE_APPROVER, else the login name."""
    if configured := os.environ.get("SDPOSE_APPROVER"):
        return configured
    return tracking.user_name()
