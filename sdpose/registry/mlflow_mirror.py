"""Mirrors the registry into MLflow's model versions and aliases, for its UI.

The store holds the truth; `reconcile` repairs drift.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sdpose import tracking
from sdpose.errors import UserError
from sdpose.registry.channels import current
from sdpose.registry.documents import figure
from sdpose.registry.layout import CHANNELS, blob_key, manifest_key, versions_folder
from sdpose.registry.versions import ModelVersion, read_version, versions
from sdpose.registry.withdrawals import read_withdrawals
from sdpose.storage import Store, StoreUnavailableError
from sdpose.tracking import models

VERSION_TAG = "sdpose.registry_version"
IDENTITY_TAG = "sdpose.identity"
MANIFEST_TAG = "sdpose.manifest"
WEIGHTS_TAG = "sdpose.sha256"
RUN_TAG = "sdpose.registered_version"

logger = logging.getLogger(__name__)

Repairer = Callable[[str], bool]  # notes what is wrong; returns whether to repair it


@contextlib.contextmanager
def tolerate_outage() -> Iterator[None]:
    """Logs an MLflow that does not answer, and goes on."""
    try:
        yield
    except UserError as error:
        logger.warning(f"MLflow was not updated; `sdpose registry reconcile` will do it: {error}")


def mirror_version(version: ModelVersion) -> str:
    """Creates the version in MLflow unless it is there, with tags that link it to its manifest, and
    a tag of the training's run that links to it.

    Returns:
        MLflow's number of the version.
    """
    name = version.model_name
    # By content: another version of an earlier registry may have the number.
    identity = (IDENTITY_TAG, version.manifest["identity"])
    listed = models.list_versions(name, identity)
    if not listed:
        run_id = version.manifest["mlflow_run_id"]
        number = models.create_version(name, _source(version), run_id, _tags(version))
        if run_id and tracking.run_tags(run_id) is not None:
            tracking.tag_run(run_id, {RUN_TAG: _reference(version)})
        listed = models.list_versions(name, identity)
        if listed[0].number != number:  # another process did it at the same time, and was first
            models.delete_version(name, number)
    return listed[0].number


def hide_version(store: Store, model_name: str, version: int) -> None:
    """Deletes a withdrawn version in MLflow."""
    manifest = store.uri(manifest_key(model_name, version))
    # The registry may have had another address when the version was shown.
    content = (str(version), _identity(store, model_name, version))
    for listed in models.list_versions(model_name):
        tags = listed.tags
        same = (tags.get(VERSION_TAG), tags.get(IDENTITY_TAG)) == content
        if same or tags.get(MANIFEST_TAG) == manifest:
            models.delete_version(model_name, listed.number)


def _identity(store: Store, model_name: str, version: int) -> str:
    """The identity of a withdrawn version; "" if its manifest is lost or damaged."""
    try:
        return str(read_version(store, model_name, version).manifest["identity"])
    except StoreUnavailableError:
        raise
    except UserError:
        return ""


def mirror_alias(store: Store, model_name: str, channel: str) -> None:
    """Sets MLflow's alias to the channel's version, again if the channel moves meanwhile."""
    record = current(store, model_name, channel)
    while record is not None:
        number = mirror_version(read_version(store, model_name, record["version"]))
        models.set_alias(model_name, channel, number)
        before, record = record, current(store, model_name, channel)
        if record == before:
            return


@dataclass(frozen=True)
class Repair:
    model_name: str
    what: str


def reconcile(store: Store, model_name: str, *, dry_run: bool = False) -> list[Repair]:
    """Makes MLflow show what the store holds; versions of others stay.

    Repairs missing versions, changed tags and links, moved or lost aliases, and versions that claim
    to be of this registry and are not.

    Returns:
        What was repaired; with `dry_run`, what would be.
    """
    repairs: list[Repair] = []

    def repair(what: str) -> bool:
        repairs.append(Repair(model_name, what))
        return not dry_run

    there = models.list_versions(model_name)  # first: whatever comes now is in the store too
    stored = list(versions(store, model_name))
    numbers: dict[int, str | None] = {}
    for version in stored:
        identity = version.manifest["identity"]
        listed = next((each for each in there if each.tags.get(IDENTITY_TAG) == identity), None)
        if listed is not None:
            numbers[version.version] = listed.number
            _repair_tags(version, listed, repair)
        elif repair(f"version {version.version} is not in MLflow"):
            numbers[version.version] = mirror_version(version)
    _repair_links(stored, repair)
    _repair_aliases(store, model_name, numbers, repair)
    ours = {version.manifest["identity"] for version in stored}
    ours |= {_identity(store, model_name, n) for n in read_withdrawals(store, model_name)} - {""}
    for each in there:
        claims = each.tags.get(MANIFEST_TAG, "").startswith(store.uri(versions_folder(model_name)))
        claims = claims or each.tags.get(IDENTITY_TAG) in ours
        if not claims or each.number in numbers.values():
            continue
        if repair(f"MLflow's version {each.number} is none of the registry's, or a second one"):
            models.delete_version(model_name, each.number)
    return repairs


def named_weights() -> set[str]:
    """SHA-256 of the weights that a version in MLflow names, of this registry or another one."""
    if not tracking.is_configured():
        return set()
    return {
        each.tags[WEIGHTS_TAG] for each in models.list_versions(None) if WEIGHTS_TAG in each.tags
    }


def _repair_tags(version: ModelVersion, listed: models.ListedVersion, repair: Repairer) -> None:
    changed = {k: v for k, v in _tags(version).items() if listed.tags.get(k) != v}
    if changed and repair(f"version {version.version}: tags {', '.join(sorted(changed))}"):
        models.tag_version(version.model_name, listed.number, changed)


def _repair_links(stored: list[ModelVersion], repair: Repairer) -> None:
    of_runs = {version.manifest["mlflow_run_id"]: _reference(version) for version in stored}
    for run_id, reference in of_runs.items():
        tags = tracking.run_tags(run_id) if run_id else None
        if tags is None or tags.get(RUN_TAG) == reference:
            continue
        if repair(f"run {run_id} should name {reference}, names {tags.get(RUN_TAG)}"):
            tracking.tag_run(run_id, {RUN_TAG: reference})


def _repair_aliases(
    store: Store, model_name: str, numbers: dict[int, str | None], repair: Repairer
) -> None:
    aliases = models.aliases(model_name)
    for channel in CHANNELS:
        record = current(store, model_name, channel)
        there = aliases.get(channel)
        if record is None:
            if there is not None and repair(f"alias {channel} is at {there}, should not be there"):
                models.delete_alias(model_name, channel)
        elif there is None or there != numbers.get(record["version"]):
            what = f"alias {channel} is at {there}, should be at version {record['version']}"
            if repair(f"{what} ({numbers.get(record['version'])} in MLflow)"):
                mirror_alias(store, model_name, channel)


def _reference(version: ModelVersion) -> str:
    return f"{version.model_name}@{version.version}"


def _tags(version: ModelVersion) -> dict[str, str]:
    ap = figure(version.manifest["metrics"])
    return {
        VERSION_TAG: str(version.version),
        IDENTITY_TAG: version.manifest["identity"],
        MANIFEST_TAG: version.manifest_uri,
        WEIGHTS_TAG: version.sha256,
        **({} if ap is None else {"AP": f"{ap:.4f}"}),
    }


def _source(version: ModelVersion) -> str:
    """Where MLflow says that the weights are."""
    run_id = version.manifest["mlflow_run_id"]
    uri = version.weights_uri
    if not uri.startswith("file:") or not tracking.tracking_uri().startswith("http"):
        return uri
    # A server refuses files of another machine. The training has sent it the checkpoint.
    if run_id and tracking.run_tags(run_id) is not None:
        return f"runs:/{run_id}/checkpoints/{version.manifest['checkpoint']['name']}"
    return f"sdpose-registry:///{blob_key(version.sha256)}"  # the tags say where that is
