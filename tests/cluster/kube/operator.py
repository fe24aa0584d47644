"""The Training Operator's PyTorchJob controller (v1.9), as far as a client can tell.

pkg/controller.v1/common/{job,pod}.go and pytorch/{pytorchjob_controller,envvar,elastic}.go
"""

from __future__ import annotations

import copy
import time
from datetime import datetime
from typing import Any

from tests.cluster.kube.controller import Controller
from tests.cluster.kube.store import Key, Object, now

GROUP, PLURAL = "kubeflow.org", "pytorchjobs"
NO_EXIT_CODE = 0xBEEF  # the operator's own, for a container that has none; it is "retryable"


class Operator(Controller):
    def reconcile(self) -> None:
        for key, job in self._store.list(GROUP, PLURAL):
            if not job["metadata"].get("deletionTimestamp"):
                self._reconcile(key, job)

    def _reconcile(self, key: Key, job: Object) -> None:
        status = copy.deepcopy(job.get("status") or {})
        conditions: list[Object] = status.setdefault("conditions", [])
        name, policy = job["metadata"]["name"], job["spec"].get("runPolicy", {})
        replicas: Object = job["spec"]["pytorchReplicaSpecs"]
        if not conditions:
            _set(conditions, "Created", "PyTorchJobCreated", f"PyTorchJob {name} is created.")
        pods = {pod["metadata"]["name"]: pod for pod in self._pods(job)}
        if _is(conditions, "Succeeded") or _is(conditions, "Failed"):
            self._clean(pods, policy.get("cleanPodPolicy", "None"))
            # Without completionTime, as after a failure by exit code, the operator only logs "job
            # completion time is nil, cannot cleanup", for ever.
            ttl, ended = policy.get("ttlSecondsAfterFinished"), status.get("completionTime")
            if ttl is not None and ended and _age(ended) >= ttl:
                self._store.discard(key)
                return
        elif policy.get("suspend"):
            self._clean(pods, "All")
            if not _is(conditions, "Suspended"):
                message = f"PyTorchJob {name} is suspended."
                _set(conditions, "Running", "PyTorchJobSuspended", message, "False")
                _set(conditions, "Suspended", "PyTorchJobSuspended", message)
        elif _past_deadline(policy, status):
            self._clean(pods, "All")
            status["completionTime"] = now()
            message = f"Job {name} has failed because it was active longer than specified deadline"
            _set(conditions, "Failed", "PyTorchJobFailed", message)
        else:
            if _is(conditions, "Suspended"):
                message = f"PyTorchJob {name} is resumed."
                _set(conditions, "Suspended", "PyTorchJobResumed", message, "False")
                status["startTime"] = now()
            status.setdefault("startTime", now())
            counts = {
                kind: self._reconcile_replica(job, kind, spec, pods, conditions)
                for kind, spec in replicas.items()
            }
            status["replicaStatuses"] = counts
            self._conclude(name, replicas, counts, status)

        def change(item: Object) -> None:
            item["status"] = status

        self._store.update(key, change)

    def _reconcile_replica(
        self, job: Object, kind: str, spec: Object, pods: Object, conditions: list[Object]
    ) -> Object:
        counts = {"active": 0, "succeeded": 0, "failed": 0}
        name, retry = job["metadata"]["name"], spec.get("restartPolicy", "OnFailure")
        for index in range(spec.get("replicas", 1)):
            pod = pods.get(f"{name}-{kind.lower()}-{index}")
            if pod is None:
                self._create_pod(job, kind, index, spec)
                continue
            phase = pod.get("status", {}).get("phase", "Pending")
            if phase == "Failed":
                code = _exit_code(pod)
                if retry in {"OnFailure", "Always"} or (retry == "ExitCode" and code >= 128):
                    self._store.discard(("", "pods", *_place(pod)))
                    message = f"job {name} is restarting because {kind} replica(s) failed."
                    _set(conditions, "Restarting", "PyTorchJobRestarting", message)
                elif retry == "ExitCode":
                    message = f'job "{name}" is failing because "{kind}" replica(s) failed.'
                    _set(conditions, "Failed", "PyTorchJobFailed", message)
            for phases, field in (
                (("Running", "Pending"), "active"),
                (("Succeeded",), "succeeded"),
                (("Failed",), "failed"),
            ):
                counts[field] += phase in phases and not (phase == "Pending" and field == "active")
        return counts

    def _conclude(self, name: str, replicas: Object, counts: Object, status: Object) -> None:
        conditions = status["conditions"]
        if _is(conditions, "Failed"):
            return
        first = "Master" if "Master" in replicas else "Worker"
        if counts[first]["active"]:
            _set(conditions, "Running", "PyTorchJobRunning", f"PyTorchJob {name} is running.")
        if counts[first]["succeeded"] == replicas[first].get("replicas", 1):
            status["completionTime"] = now()
            message = f"PyTorchJob {name} is successfully completed."
            _set(conditions, "Succeeded", "PyTorchJobSucceeded", message)

    def _create_pod(self, job: Object, kind: str, index: int, spec: Object) -> None:
        name, replica = job["metadata"]["name"], kind.lower()
        template = copy.deepcopy(spec["template"])
        labels = template.setdefault("metadata", {}).setdefault("labels", {})
        labels |= {
            "training.kubeflow.org/job-name": name,
            "training.kubeflow.org/operator-name": "pytorchjob-controller",
            "training.kubeflow.org/replica-type": replica,
            "training.kubeflow.org/replica-index": str(index),
        }
        if kind == "Master":
            labels["training.kubeflow.org/job-role"] = "master"
        pod_spec = template["spec"]
        for container in pod_spec["containers"]:
            container.setdefault("env", []).extend(
                {"name": key, "value": value} for key, value in self._env(job, kind, index).items()
            )
        if kind == "Worker" and "Master" in job["spec"]["pytorchReplicaSpecs"]:
            pod_spec.setdefault("initContainers", []).append(
                {
                    "name": "init-pytorch",
                    "image": "alpine:3.10",
                    "command": [
                        "sh",
                        "-c",
                        f"err=1;for i in $(seq 100); do if nslookup {name}-master-0; then err=0 && "
                        "break; fi;echo waiting for master; sleep 2; done; exit $err",
                    ],
                }
            )
        retry = spec.get("restartPolicy", "OnFailure")
        pod_spec["restartPolicy"] = "Never" if retry == "ExitCode" else retry
        owner = {
            "apiVersion": "kubeflow.org/v1",
            "kind": "PyTorchJob",
            "name": name,
            "uid": job["metadata"]["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
        self._cluster.create_pod(
            f"{name}-{replica}-{index}", template, job, owner, reason="FailedCreatePod"
        )

    def _env(self, job: Object, kind: str, index: int) -> dict[str, str]:
        spec, name = job["spec"], job["metadata"]["name"]
        replicas = spec["pytorchReplicaSpecs"]
        total = sum(each.get("replicas", 1) for each in replicas.values())
        processes, port = spec.get("nprocPerNode", "auto"), str(self._cluster.master_port)
        env = {"PYTHONUNBUFFERED": "1", "PET_NPROC_PER_NODE": processes}
        if "Master" in replicas:
            rank = index + (kind == "Worker")
            factor = int(processes) if processes.isdigit() else 1
            env |= {
                "MASTER_PORT": port,
                "PET_MASTER_PORT": port,
                "MASTER_ADDR": f"{name}-master-0",
                "PET_MASTER_ADDR": f"{name}-master-0",
                "WORLD_SIZE": str(total * factor),
                "RANK": str(rank),
                "PET_NODE_RANK": str(rank),
                "PET_NNODES": str(total),
            }
        if elastic := spec.get("elasticPolicy"):
            env |= {
                "PET_RDZV_ENDPOINT": f"{name}-worker-0:{port}",
                "PET_RDZV_BACKEND": elastic.get("rdzvBackend", "c10d"),
                "PET_NNODES": f"{elastic['minReplicas']}:{elastic['maxReplicas']}",
                "PET_MAX_RESTARTS": str(elastic["maxRestarts"]),
            }
        return env

    def _clean(self, pods: Object, policy: str) -> None:
        for pod in pods.values():
            active = pod.get("status", {}).get("phase", "Pending") in {"Running", "Pending"}
            if policy == "All" or (policy == "Running" and active):
                self._store.discard(("", "pods", *_place(pod)))

    def _pods(self, job: Object) -> list[Object]:
        return [
            pod
            for _, pod in self._store.list("", "pods", job["metadata"]["namespace"])
            if any(
                owner["uid"] == job["metadata"]["uid"]
                for owner in pod["metadata"].get("ownerReferences", [])
            )
        ]


def _set(
    conditions: list[Object], kind: str, reason: str, message: str, status: str = "True"
) -> None:
    """setCondition and filterOutCondition of pkg/util/status.go"""
    current = next((c for c in conditions if c["type"] == kind), None)
    if current and (current["status"], current["reason"]) == (status, reason):
        return
    if _is(conditions, "Failed") or _is(conditions, "Succeeded"):
        return
    rivals = {"Running": "Restarting", "Restarting": "Running"}
    conditions[:] = [c for c in conditions if c["type"] not in {kind, rivals.get(kind)}]
    if kind in {"Succeeded", "Failed"}:
        for condition in conditions:
            if condition["type"] == "Running":
                condition["status"] = "False"
    conditions.append(
        {
            "type": kind,
            "status": status,
            "reason": reason,
            "message": message,
            "lastUpdateTime": now(),
            "lastTransitionTime": now(),
        }
    )


def _is(conditions: list[Object], kind: str) -> bool:
    return any(c["type"] == kind and c["status"] == "True" for c in conditions)


def _exit_code(pod: Object) -> int:
    for status in pod["status"].get("containerStatuses", []):
        if status["name"] == "pytorch" and "terminated" in status.get("state", {}):
            return int(status["state"]["terminated"]["exitCode"])
    return NO_EXIT_CODE


def _past_deadline(policy: Object, status: Object) -> bool:
    limit, start = policy.get("activeDeadlineSeconds"), status.get("startTime")
    return bool(limit and start and _age(start) >= limit)


def _age(stamp: str) -> float:
    return time.time() - datetime.fromisoformat(stamp).timestamp()


def _place(item: Object) -> tuple[Any, Any]:
    return item["metadata"]["namespace"], item["metadata"]["name"]
