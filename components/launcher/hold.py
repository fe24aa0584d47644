"""Keeps a failed TrainJob failed.

Kubeflow Trainer up to 2.3.0 forgets that a TrainJob has failed once its JobSet is gone, and makes a
new one (kubeflow/trainer#3737): when the runtime's TTL is over, a training that nobody watches
would start again. A suspended TrainJob gets a JobSet without pods.
"""

from __future__ import annotations

from components.kube.api import Api, Object
from components.launcher.kinds import FAILED_ANNOTATION, Kind


def hold(api: Api, kind: Kind, job: Object) -> None:
    """Of a job that has failed. It is still found as failed by the run's next launcher.

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
