"""Kubeflow Trainer v2 with its JobSet and Job, as far as a client can tell: pods of the runtime
`torch-distributed` with what a TrainJob patches. JobSet's default restartPolicy is OnFailure; Job's
backoffLimit counts failed pods and restarts of containers."""

from __future__ import annotations

import copy
import itertools
import secrets

from tests.cluster.kube.controller import Controller
from tests.cluster.kube.store import Key, Object, now

GROUP, PLURAL = "trainer.kubeflow.org", "trainjobs"
INDEX = "batch.kubernetes.io/job-completion-index"


class Trainer(Controller):
    backoff_limit = 6  # Job's default

    def reconcile(self) -> None:
        for key, job in self._store.list(GROUP, PLURAL):
            if not job["metadata"].get("deletionTimestamp"):
                self._reconcile(key, job)

    def _reconcile(self, key: Key, job: Object) -> None:
        conditions = job.get("status", {}).get("conditions", [])
        if any(c["type"] in {"Complete", "Failed"} for c in conditions):
            return
        if job["spec"].get("suspend"):
            self._conclude(key, "Suspended", "Suspended", "TrainJob is suspended")
            return
        uid, nodes = job["metadata"]["uid"], job["spec"]["trainer"]["numNodes"]
        pods: dict[str, list[Object]] = {str(index): [] for index in range(nodes)}
        for _, pod in self._store.list("", "pods", key[2]):
            if any(o["uid"] == uid for o in pod["metadata"].get("ownerReferences", [])):
                pods[pod["metadata"]["labels"][INDEX]].append(pod)
        phases = {i: [p["status"].get("phase") for p in each] for i, each in pods.items()}
        failures = sum(each.count("Failed") for each in phases.values()) + sum(
            status["restartCount"]
            for each in pods.values()
            for pod in each
            for status in pod["status"].get("containerStatuses", [])
        )
        if failures > self.backoff_limit:
            for pod in itertools.chain(*pods.values()):
                if pod["status"].get("phase") in {"Pending", "Running"}:
                    self._store.discard(("", "pods", key[2], pod["metadata"]["name"]))
            message = "jobset failed due to one or more job failures"
            self._conclude(key, "Failed", "JobSetFailed", message)
        elif all("Succeeded" in each for each in phases.values()):
            self._conclude(key, "Complete", "AllJobsCompleted", "jobset completed successfully")
        else:
            self._conclude(key, "Suspended", "Resumed", "TrainJob is resumed", "False")
            for index, each in phases.items():
                if all(phase == "Failed" for phase in each):
                    self._create_pod(job, index)

    def _conclude(
        self, key: Key, kind: str, reason: str, message: str, status: str = "True"
    ) -> None:
        condition = {"type": kind, "status": status, "reason": reason, "message": message}

        def change(item: Object) -> None:
            conditions = item.setdefault("status", {}).setdefault("conditions", [])
            if not any((c["type"], c["status"]) == (kind, status) for c in conditions):
                conditions[:] = [c for c in conditions if c["type"] != kind]
                conditions.append(condition | {"lastTransitionTime": now()})

        self._store.update(key, change)

    def _create_pod(self, job: Object, index: str) -> None:
        name, trainer = job["metadata"]["name"], job["spec"]["trainer"]
        (patch,) = job["spec"]["runtimePatches"]
        (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
        template = copy.deepcopy(replicated["template"]["spec"]["template"])
        (container,) = template["spec"]["containers"]
        port = str(self._cluster.master_port)
        container |= {
            "image": trainer["image"],
            "command": trainer["command"],
            "env": [
                *trainer["env"],
                {"name": "PET_NNODES", "value": str(trainer["numNodes"])},
                {"name": "PET_NPROC_PER_NODE", "value": str(trainer["numProcPerNode"])},
                {"name": "PET_NODE_RANK", "value": index},
                {"name": "PET_MASTER_ADDR", "value": f"{name}-node-0-0.{name}"},
                {"name": "PET_MASTER_PORT", "value": port},
            ],
        }
        template["spec"] |= {
            "restartPolicy": "OnFailure",
            "hostname": f"{name}-node-0-{index}",
            "subdomain": name,
        }
        template.setdefault("metadata", {}).setdefault("labels", {}).update(
            {
                "jobset.sigs.k8s.io/jobset-name": name,
                "jobset.sigs.k8s.io/replicatedjob-name": "node",
                INDEX: index,
            }
        )
        owner = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": f"{name}-node-0",
            "uid": job["metadata"]["uid"],
        }
        pod = f"{name}-node-0-{index}-{secrets.token_hex(3)[:5]}"
        self._cluster.create_pod(pod, template, job, owner, reason="FailedCreate")
