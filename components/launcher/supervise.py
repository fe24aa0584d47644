"""Supervises a job until its end: logs, progress, reasons for waiting, budgets for restarts."""

from __future__ import annotations

import logging
import queue
import threading
import time
from pathlib import Path

from components.kube.api import PODS, Api, Object, Resource
from components.kube.errors import ApiError
from components.kube.watch import follow
from components.launcher import pending
from components.launcher.failure import (
    OUTPUT_DELAY_S,
    JobError,
    failure_report,
    job_failed,
    pod_report,
)
from components.launcher.kinds import Kind
from components.launcher.kueue import Queue
from components.launcher.logs import Logs
from components.launcher.progress_watch import ANNOTATION as PROGRESS
from components.launcher.progress_watch import ProgressWatch
from components.launcher.termination import End, RestartCounts, age
from components.profile import Cluster
from sdpose.config import Experiment

logger = logging.getLogger(__name__)

TICK_S = 1.0
# Reasons are asked for when something has been waiting for so long, and so often.
PATIENCE_S = 10.0
EXPLAIN_EVERY_S = 15.0
LAST_LINES_S = 30.0  # for reading what ended pods said
LAST_PROGRESS_S = 15.0  # for the run's last record

News = tuple[str, str, list[Object]] | BaseException


class Supervisor:
    """Of one job, which exists."""

    def __init__(
        self,
        api: Api,
        kind: Kind,
        cluster: Cluster,
        experiment: Experiment,
        job: Object,
        log: Path,
    ) -> None:
        self._api, self._kind, self._cluster, self._job = api, kind, cluster, job
        self._stop = threading.Event()
        self._restarts = RestartCounts(kind, job)
        self._queue = Queue(api, kind, cluster.queue)
        self._progress = ProgressWatch(
            experiment, self._keep_progress, lambda: self._restarts.total
        )
        self._logs = Logs(api, kind, log, self._line)
        self._pods: dict[str, Object] = {}  # by uid, those that exist
        self._last: dict[str, Object] = {}  # by replica, the latest, also if it is gone
        self._listed = False  # the pods, once
        self._waiting_since: dict[str, float] = {}  # by what waits
        self._silent_since: dict[str, float] = {}  # by replica, whose node does not report
        self._explained, self._next_explanation = "", 0.0
        self._news: queue.Queue[News] = queue.Queue()

    def run(self) -> None:
        """Until the job has succeeded; raises JobError otherwise."""
        name = self._job["metadata"]["name"]
        for what, resource, query in (
            ("job", self._kind.resource, {"fieldSelector": f"metadata.name={name}"}),
            ("pods", PODS, {"labelSelector": f"{self._kind.pod_label}={name}"}),
        ):
            threading.Thread(
                target=self._watch, args=(what, resource, query), name=f"watch {what}", daemon=True
            ).start()
        try:
            while not self._is_over():
                self._handle_news()
                self._check_waiting()
        finally:
            # Whoever ended us before the job's end has no time to wait for living pods.
            self._stop.set()
            self._progress.close(0)
            self._logs.close(0)

    # ------------------------------------------------------------------------------ what happens

    def _watch(self, what: str, resource: Resource, query: dict[str, str]) -> None:
        try:
            follow(
                self._api.until(self._stop),
                resource,
                query,
                lambda event, objects: self._news.put((what, event, objects)),
                self._stop,
            )
        except BaseException as error:  # ends run()
            self._news.put(error)

    def _handle_news(self) -> None:
        """Handles what the watches have seen; waits for a moment if that is nothing."""
        try:
            news = self._news.get(timeout=TICK_S)
            while True:
                if isinstance(news, BaseException):
                    raise news
                what, event, objects = news
                (self._handle_job if what == "job" else self._handle_pods)(event, objects)
                news = self._news.get_nowait()
        except queue.Empty:
            return

    def _handle_job(self, event: str, objects: list[Object]) -> None:
        uid = self._job["metadata"]["uid"]
        ours = [job for job in objects if job["metadata"]["uid"] == uid]
        if event == "DELETED" or (event == "LISTED" and not ours):
            raise JobError(f"{self._name} was deleted by somebody else", ended_by_itself=True)
        for job in ours:
            self._job = job

    def _handle_pods(self, event: str, objects: list[Object]) -> None:
        if event == "LISTED":
            listed = {pod["metadata"]["uid"] for pod in objects}
            for pod in [pod for uid, pod in self._pods.items() if uid not in listed]:
                self._handle_pod(pod, deleted=True)
            self._handle_pod_list(objects)
        else:
            for pod in objects:
                self._handle_pod(pod, deleted=event == "DELETED")

    def _handle_pod_list(self, pods: list[Object]) -> None:
        if not self._listed:
            self._restarts.take_baseline(pods)
            self._listed = True
        for pod in sorted(pods, key=age):
            self._handle_pod(pod, deleted=False)

    def _handle_pod(self, pod: Object, *, deleted: bool) -> None:
        uid, replica = pod["metadata"]["uid"], self._kind.replica(pod)
        before = self._last.get(replica)
        end = self._restarts.observe(pod, deleted=deleted)
        self._logs.observe(pod, deleted=deleted)
        if deleted:
            self._pods.pop(uid, None)
        else:
            self._pods[uid] = pod
            # One whose place another has taken may still change.
            if before is None or before["metadata"]["uid"] == uid or age(before) <= age(pod):
                self._last[replica] = pod
        if end is not None:
            assert before is not None
            self._handle_restart(replica, before, end)

    def _handle_restart(self, replica: str, before: Object, end: End) -> None:
        logger.info(f"{replica} starts again; before: {end} ({end.cause})")
        if end.is_permanent:
            report = failure_report(
                self._kind, before, end, self._last.values(), self._logs, wait=OUTPUT_DELAY_S
            )
            raise JobError(
                f"{self._name} failed; starting again would not help\n{report}",
                exit_code=end.exit_code,
            )
        try:
            self._api.brief().annotate(self._kind.resource, self._job, self._restarts.annotation())
        except ApiError as error:  # no reason to end a training
            logger.info(f"restarts are not counted beyond this launcher: {error}")
        if enough := self._restarts.exceeded(self._cluster.restarts):
            report = pod_report(self._kind, before, str(end), self._logs)
            raise JobError(f"{self._name}: {enough}\n{report}", exit_code=end.exit_code)

    def _line(self, replica: str, text: str) -> None:
        logger.info(f"[{replica}] {text}")
        self._progress.pods_run()

    def _keep_progress(self, line: str) -> None:
        self._api.brief().annotate(self._kind.resource, self._job, {PROGRESS: line})

    # ------------------------------------------------------------------------------------ waiting

    def _check_waiting(self) -> None:
        """Says what keeps pods from running; raises JobError if it takes too long."""
        waiting = self._waiting()
        # They may train on: a network between the node and the control plane is enough.
        silent = {replica for replica, pod in self._last.items() if pending.silent_since(pod)}
        now = time.monotonic()
        self._waiting_since = {what: self._waiting_since.get(what, now) for what in waiting}
        self._silent_since = {what: self._silent_since.get(what, now) for what in silent}
        if not waiting and not silent:
            self._explained = ""
            return
        if "queue" in waiting:
            self._queue.check(self._job, now - self._waiting_since["queue"])
        waited = now - min((*self._waiting_since.values(), *self._silent_since.values()))
        limit = self._cluster.pending_timeout_seconds
        counted = now - min(self._waiting_since.values(), default=now)
        timed_out = (
            counted > limit and "queue" not in waiting and not self._can_train_without(waiting)
        )
        if not timed_out and (waited < PATIENCE_S or now < self._next_explanation):
            return
        self._next_explanation = now + EXPLAIN_EVERY_S
        reason = self._explain(waiting)
        if reason != self._explained:
            logger.info(f"waiting: {reason}")
            self._explained = reason
        if timed_out:
            raise JobError(
                f"{self._name} did not start within {limit} s (pending_timeout_seconds in the "
                f"cluster profile): {reason}"
            )

    def _waiting(self) -> set[str]:
        """What is waited for: the queue, pods that were never there, or replicas by their name.
        (Pods that wait may be replaced by others that wait.)"""
        if self._kind.phase(self._job) == "suspended":
            return {"queue"}
        waiting = {
            replica
            for replica, pod in self._last.items()
            if self._is_gone(pod) or pending.is_waiting(pod, self._kind.container)
        }
        return waiting | ({"pods"} if len(self._last) < self._cluster.nodes else set())

    def _is_gone(self, pod: Object) -> bool:
        return pod["metadata"]["uid"] not in self._pods

    def _can_train_without(self, waiting: set[str]) -> bool:
        """Whether those that wait are not needed: elastic training goes on without them."""
        elastic = self._cluster.elastic
        return elastic is not None and len(set(self._last) - waiting) >= elastic.min_replicas

    def _explain(self, waiting: set[str]) -> str:
        api = self._api.brief()
        try:
            if "queue" in waiting:
                return self._queue.explain(self._job)
            if "pods" in waiting or any(map(self._is_gone, self._last.values())):
                return pending.explain_missing_pods(api, self._kind, self._job)
            return "; ".join(pending.explain_pods(api, self._kind, self._last.values()))
        except ApiError as error:  # no reason to end a training
            return f"the reason cannot be read: {error}"

    # ------------------------------------------------------------------------------------ the end

    def _is_over(self) -> bool:
        phase = self._kind.phase(self._job)
        if phase not in {"succeeded", "failed"}:
            return False
        self._read_last_lines()
        if phase == "failed":
            raise job_failed(self._kind, self._job, list(self._last.values()), self._logs)
        return True

    def _read_last_lines(self) -> None:
        """The job's end may be known before that of its pods."""
        selector = f"{self._kind.pod_label}={self._job['metadata']['name']}"
        try:
            self._handle_pod_list(self._api.brief().list(PODS, labelSelector=selector)["items"])
        except ApiError as error:  # how the job ended is known
            logger.info(f"the pods' last lines may be missing: {error}")
        self._stop.set()
        self._logs.close(LAST_LINES_S)
        self._progress.close(LAST_PROGRESS_S)

    @property
    def _name(self) -> str:
        return f"{self._kind.name} {self._job['metadata']['name']}"
