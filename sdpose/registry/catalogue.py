"""What MLflow shows of the registry: its model versions and aliases. MLflow is the catalogue that
people click in; the store decides. What drifts is mended by `reconcile`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sdpose import tracking
from sdpose.registry.channels import current
from sdpose.registry.layout import CHANNELS
from sdpose.registry.versions import ModelVersion, read_version, versions
from sdpose.storage import Store

VERSION_TAG = "sdpose.registry_version"
IDENTITY_TAG = "sdpose.identity"
RUN_TAG = "sdpose.registered_version"


def show(version: ModelVersion) -> str:
    """MLflow's number of the version, made if it is not there. Links both ways: tags at the version
    name the manifest, a tag at the training's run names the version."""
    identity = version.manifest["identity"]  # the number may be another's, of a registry before
    known = tracking.find_model_version(version.model_name, IDENTITY_TAG, identity)
    if known is not None:
        return known
    run_id = version.manifest["mlflow_run_id"]
    source = version.weights_uri
    if source.startswith("file:") and tracking.tracking_uri().startswith("http") and run_id:
        # A server refuses files of another machine; the training has sent it the checkpoint.
        source = f"runs:/{run_id}/checkpoints/{version.manifest['checkpoint']['name']}"
    number = tracking.create_model_version(version.model_name, source, run_id, _tags(version))
    if run_id:
        tracking.tag_run(run_id, {RUN_TAG: f"{version.model_name}@{version.version}"})
    return number


def _tags(version: ModelVersion) -> dict[str, str]:
    ap = version.manifest["metrics"].get("AP")
    return {
        VERSION_TAG: str(version.version),
        IDENTITY_TAG: version.manifest["identity"],
        "sdpose.manifest": version.manifest_uri,
        "sdpose.sha256": version.sha256,
        **({} if ap is None else {"AP": f"{ap:.4f}"}),
    }


def follow(store: Store, model_name: str, channel: str) -> None:
    """Sets MLflow's alias to what the channel points at now, and again if it moved meanwhile."""
    record = current(store, model_name, channel)
    while record is not None:
        number = show(read_version(store, model_name, record["version"]))
        tracking.set_model_alias(model_name, channel, number)
        before, record = record, current(store, model_name, channel)
        if record == before:
            return


@dataclass(frozen=True)
class Repair:
    model_name: str
    what: str


def reconcile(store: Store, model_name: str, *, dry_run: bool = False) -> list[Repair]:
    """Makes MLflow show what the store holds: missing versions, changed tags, moved or lost
    aliases. Returns what was (or, dry_run, would be) mended."""
    repairs: list[Repair] = []

    def mend(what: str) -> bool:
        repairs.append(Repair(model_name, what))
        return not dry_run

    numbers: dict[int, str | None] = {}
    for version in versions(store, model_name):
        identity = version.manifest["identity"]
        number = tracking.find_model_version(model_name, IDENTITY_TAG, identity)
        if number is None:
            if mend(f"version {version.version} is not in MLflow"):
                number = show(version)
        else:
            _mend_tags(version, number, mend)
        numbers[version.version] = number
    aliases = tracking.model_aliases(model_name)
    for channel in CHANNELS:
        record = current(store, model_name, channel)
        wanted = numbers[record["version"]] if record else None
        if wanted != aliases.get(channel):
            what = f"alias {channel} is at {aliases.get(channel)}, should be at {wanted}"
            if mend(what):
                if wanted is None:
                    tracking.delete_model_alias(model_name, channel)
                else:
                    tracking.set_model_alias(model_name, channel, wanted)
    return repairs


def _mend_tags(version: ModelVersion, number: str, mend: Any) -> None:
    there = tracking.model_version_tags(version.model_name, number)
    changed = {key: value for key, value in _tags(version).items() if there.get(key) != value}
    if changed and mend(f"version {version.version}: tags {', '.join(sorted(changed))}"):
        tracking.tag_model_version(version.model_name, number, changed)
