"""Creates a run's job once, finds it again, and removes it with all that it owns."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from components.kube.api import PODS, Api, Object
from components.kube.errors import ApiError
from components.launcher.build import DIGEST_ANNOTATION
from components.launcher.kinds import FAILED_ANNOTATION, Kind
from sdpose.errors import UserError

logger = logging.getLogger(__name__)

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
# Which launcher process created the job: it alone removes it.
LAUNCHER_ANNOTATION = "sdpose/launcher"
# Beyond the pods' grace period; a node that is gone keeps its pods longer.
REMOVAL_MARGIN_S = 60.0
POLL_S = 1.0
DELETION_S = 600.0  # how long an earlier job of the same name may take to be gone


def submit(
    api: Api,
    kind: Kind,
    job: Object,
    *,
    fit: Callable[[Object], Object],
    before_creation: Callable[[], None],
) -> tuple[Object, bool]:
    """The job in the cluster, and whether this launcher created it.

    One that has failed is replaced: nobody starts a launcher again but to try again. One that is
    being deleted is waited for.

    Args:
        job: with LAUNCHER_ANNOTATION.
        fit: makes the job one that the cluster takes; called before anything is changed.
        before_creation: called if the run has no such job yet.
    Raises:
        UserError: the name is taken by another job.
    """
    name = job["metadata"]["name"]
    prepared, fitted = False, None
    give_up = time.monotonic() + DELETION_S
    while True:
        found = api.get(kind.resource, name)
        if found is None:
            fitted = fitted or fit(job)
            if not prepared:
                before_creation()
                prepared = True
            created = api.create(kind.resource, fitted)
            if created is not None:
                return created, True
            continue  # created meanwhile, perhaps by a try of ours whose answer was lost: look
        if time.monotonic() > give_up:
            raise UserError(
                f"{kind.name} {api.namespace}/{name} has been under deletion for "
                f"{DELETION_S:.0f} s: what keeps it? (kubectl get pods,{kind.resource.plural})"
            )
        if found["metadata"].get("deletionTimestamp"):
            time.sleep(POLL_S)
            continue
        theirs = found["metadata"].get("annotations", {}).get(DIGEST_ANNOTATION)
        if theirs != job["metadata"]["annotations"][DIGEST_ANNOTATION]:
            raise UserError(
                f"{kind.name} {api.namespace}/{name} exists and is not this run's job (its "
                f"{DIGEST_ANNOTATION} differs): delete it, or start a new run"
            )
        if kind.phase(found) == "failed" and not is_created_by(found, job):
            fitted = fitted or fit(job)
            if not prepared:
                logger.info(
                    f"{kind.name} {api.namespace}/{name} had failed ({kind.message(found)}): a new "
                    "one takes its place and continues from its last checkpoint"
                )
            prepared = True  # what it has trained stays
            api.delete(kind.resource, name, found["metadata"]["uid"])
            time.sleep(POLL_S)
            continue
        return found, is_created_by(found, job)


def is_created_by(found: Object, job: Object) -> bool:
    """Whether what was found is the job that this launcher sent."""
    mine = job["metadata"]["annotations"][LAUNCHER_ANNOTATION]
    return bool(found["metadata"].get("annotations", {}).get(LAUNCHER_ANNOTATION) == mine)


def remove(api: Api, kind: Kind, job: Object, grace_seconds: float) -> bool:
    """Deletes the job and waits until it and its pods are gone; False if they are not in time, or
    nobody can say so."""
    name, uid = job["metadata"]["name"], job["metadata"]["uid"]
    api.delete(kind.resource, name, uid)
    give_up = time.monotonic() + grace_seconds + REMOVAL_MARGIN_S
    with contextlib.suppress(ApiError):
        while time.monotonic() < give_up:
            left = api.get(kind.resource, name)
            gone = left is None or left["metadata"]["uid"] != uid
            if left and not gone and not left["metadata"].get("deletionTimestamp"):
                api.delete(kind.resource, name, uid)  # see Api.delete
            if gone and not api.list(PODS, labelSelector=f"{kind.pod_label}={name}")["items"]:
                return True
            time.sleep(POLL_S)
    return False


def keep_failed(api: Api, kind: Kind, job: Object) -> None:
    """Suspends a TrainJob that has failed; the run's next launcher still finds it as failed.

    Kubeflow Trainer up to 2.3.0 forgets that a TrainJob has failed once its JobSet is gone, and
    makes a new one (kubeflow/trainer#3737): after the runtime's TTL, a training that nobody watches
    would start again. A suspended TrainJob gets a JobSet without pods.

    Another launcher may have put a new job of the same name in its place: that one is left alone.
    """
    if not kind.may_run_again:
        return
    name, uid = job["metadata"]["name"], job["metadata"]["uid"]
    found = api.get(kind.resource, name)
    if found is not None and found["metadata"]["uid"] == uid:
        # The server refuses to change a uid, if there is a new one by now.
        meta = {"uid": uid, "annotations": {FAILED_ANNOTATION: "true"}}
        api.patch(kind.resource, name, {"metadata": meta, "spec": {"suspend": True}})


def disruption(api: Api) -> str | None:
    """Why Kubernetes takes this pod away, though nobody has ended its run; None if it does not."""
    pod = _own_pod(api)
    for condition in (pod or {}).get("status", {}).get("conditions") or []:
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            return f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": ")
    return None


def find_owner(api: Api) -> Object | None:
    """An owner reference that ends the job with its run; None outside of a cluster.

    The Argo Workflow that owns this pod: a pod that is retried is another one, and its job must
    not end with the first. A pod that no Workflow owns is the owner itself.
    An owner in another namespace is none: Kubernetes would delete the job at once.
    """
    pod = _own_pod(api)
    if pod is None:
        return None
    for owner in pod["metadata"].get("ownerReferences", []):
        if owner["kind"] == "Workflow":
            return {key: owner[key] for key in ("apiVersion", "kind", "name", "uid")}
    meta = pod["metadata"]
    return {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}


def _own_pod(api: Api) -> Object | None:
    """None outside of the namespace of `api`, or of any cluster."""
    name = os.environ.get("KFP_POD_NAME") or os.environ.get("POD_NAME")
    if not name and os.environ.get("KUBERNETES_SERVICE_HOST"):
        name = os.environ.get("HOSTNAME")
    namespace = os.environ.get("POD_NAMESPACE")
    if not namespace and NAMESPACE_FILE.is_file():
        namespace = NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    if not name or namespace != api.namespace:
        return None
    return api.get(PODS, name)
