"""Requests to Kubeflow Pipelines (REST v2beta1), with errors that say what to do.

kfp's own client is not used: it cannot retry a run, prints, and neither limits the time of a
request nor explains why one was refused.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import urllib3

from pipelines.kfp_client.connection import Connection
from pipelines.kfp_client.endpoint import Endpoint
from pipelines.kfp_client.errors import (
    KfpError,
    explain_refusal,
    not_kfp,
    refused_by_kubernetes,
)
from pipelines.kfp_client.tls_errors import ssl_error, tls_failure
from sdpose.credentials import invalid_header
from sdpose.documents import parse_json
from sdpose.errors import UserError
from sdpose.retry import retrying

CONNECT_TIMEOUT_S = 5.0
TIMEOUT_S = 20.0  # of one request
PATIENCE_S = 30.0  # for requests that can be sent again

# As KFP declares it: an experiment, a run, a schedule, ...
Object = dict[str, Any]


@dataclass(frozen=True)
class Server:
    multi_user: bool
    version: str  # of its release; "" if it does not say


class Kfp:
    """One endpoint. All methods raise KfpError."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._connection = Connection(endpoint)

    def server(self) -> Server:
        """Fails within seconds if nothing that looks like KFP answers."""
        try:
            found = self._send("talk to it", "GET", "healthz")
        except KfpError as error:
            if error.status != 404:
                raise
            raise KfpError(not_kfp(self.endpoint, "HTTP 404"), 404) from None
        if "multi_user" not in found:
            raise KfpError(not_kfp(self.endpoint, "the answer is not KFP's"), 200)
        version = str(found.get("tag_name") or "").removeprefix("v")
        return Server(bool(found["multi_user"]), version if version[:1].isdigit() else "")

    def experiment(self, name: str, namespace: str | None) -> str:
        """The id of the experiment, which is made if it is not there."""
        named = _equals("display_name", name)
        found = self._list("experiments", namespace=namespace, filter=named)
        if found:
            return str(found[0]["experiment_id"])
        new = {"display_name": name, "namespace": namespace}
        made = self._send("create the experiment", "POST", "experiments", body=new)
        return str(made["experiment_id"])

    def pipeline_version(self, name: str, package: Path, namespace: str | None) -> Object:
        """The reference to the package as a version of the pipeline `name`, uploaded if it is new.

        A version is named after its bytes: the same package is the same version.
        """
        named = _equals("display_name", name)
        pipelines = self._list("pipelines", namespace=namespace, filter=named)
        if not pipelines:
            new = {"display_name": name, "namespace": namespace}
            pipelines = [self._send("create the pipeline", "POST", "pipelines", body=new)]
        pipeline_id = pipelines[0]["pipeline_id"]
        version_name = f"{name}-{hashlib.sha256(package.read_bytes()).hexdigest()[:12]}"
        versions = self._list(
            "pipeline versions",
            f"pipelines/{pipeline_id}/versions",
            "pipeline_versions",
            filter=_equals("display_name", version_name),
        )
        if not versions:
            query = {"name": version_name, "pipelineid": pipeline_id}
            path = "pipelines/upload_version"
            versions = [
                self._send("upload the pipeline", "POST", path, query=query, upload=package)
            ]
        return {
            "pipeline_id": pipeline_id,
            "pipeline_version_id": versions[0]["pipeline_version_id"],
        }

    def create_run(self, run: Object) -> str:
        """Starts the run; returns its id. Its display name must be unique.

        Sent once: if the answer is lost on the way, the run itself is looked for.
        """
        try:
            return str(self._send("start the run", "POST", "runs", body=run)["run_id"])
        except KfpError as error:
            if not error.transient:
                raise
            for known in self.runs(run["experiment_id"], name=run["display_name"]):
                return str(known["run_id"])
            raise

    def run(self, run_id: str) -> Object:
        return self._send_again(f"see run {run_id}", "GET", f"runs/{_quoted(run_id)}")

    def runs(self, experiment_id: str, name: str = "", count: int = 10) -> list[Object]:
        """The newest runs of an experiment, newest first."""
        return self._list(
            "runs",
            experiment_id=experiment_id,
            sort_by="created_at desc",
            page_size=str(count),
            filter=_equals("display_name", name) if name else None,
        )

    def retry(self, run_id: str) -> None:
        self._send(f"retry run {run_id}", "POST", f"runs/{_quoted(run_id)}:retry")

    def terminate(self, run_id: str) -> None:
        # Sent again, it changes nothing.
        self._send_again(f"end run {run_id}", "POST", f"runs/{_quoted(run_id)}:terminate")

    def create_schedule(self, schedule: Object) -> str:
        made = self._send("create the schedule", "POST", "recurringruns", body=schedule)
        return str(made["recurring_run_id"])

    def schedules(self, experiment_id: str, name: str) -> list[Object]:
        return self._list(
            "schedules",
            "recurringruns",
            "recurringRuns",
            experiment_id=experiment_id,
            filter=_equals("display_name", name),
        )

    def delete_schedule(self, schedule_id: str) -> None:
        """Raises KfpError with status 404 if there is no such schedule."""
        self._send(
            f"remove schedule {schedule_id}", "DELETE", f"recurringruns/{_quoted(schedule_id)}"
        )

    def _list(self, what: str, path: str = "", key: str = "", **query: str | None) -> list[Object]:
        """what: is listed; also the path, and the list's key in the answer, if none are given."""
        found = self._send_again(f"list {what}", "GET", path or what, query=query)
        return found.get(key or what) or []  # an empty list is left out of the answer

    def _send_again(self, what: str, method: str, path: str, **values: Any) -> Object:
        """Sends a request that can be sent twice, until it gets an answer or patience ends."""
        retry = retrying(_is_transient, attempts=None, seconds=PATIENCE_S, longest_pause=8.0)
        found: Object = retry(self._send, what, method, path, **values)
        return found

    def _send(self, what: str, method: str, path: str, **values: Any) -> Object:
        """what: is asked for, in words."""
        try:
            return self._once(what, method, path, **values)
        except KfpError as error:
            # A token that was replaced. (A request that was answered so has done nothing.)
            if error.status != 401 or not self._renewed():
                raise
        return self._once(what, method, path, **values)

    def _renewed(self) -> bool:
        try:
            return self._connection.renew()
        except UserError as error:
            raise KfpError(str(error), 401) from None

    def _once(
        self,
        what: str,
        method: str,
        path: str,
        *,
        query: Object | None = None,
        body: Object | None = None,
        upload: Path | None = None,
    ) -> Object:
        connection = self._connection
        url = f"{connection.host}/apis/v2beta1/{path}"
        if query:
            url += f"?{urlencode(_given(query))}"
        content: dict[str, Any] = {}
        if body is not None:
            content["json"] = _given(body)
        if upload is not None:
            content["fields"] = {"uploadfile": (upload.name, upload.read_bytes())}
        try:
            answer = connection.pool.request(
                method,
                url,
                headers=connection.headers(),
                timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=TIMEOUT_S),
                retries=False,  # no redirects to a login page, and we decide what is tried again
                **content,
            )
        except UserError as error:  # of a plugin or a token's file, which may be right again
            raise KfpError(str(error), 0) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._unreachable(error) from None
        except ValueError as error:
            if (refused := invalid_header(error)) is None:
                raise
            raise KfpError(f"{what}: {refused}", 0, transient=False) from None
        if answer.status >= 300:
            if kubernetes := refused_by_kubernetes(answer, connection):
                raise kubernetes
            refusal = explain_refusal(what, answer, self.endpoint, connection)
            raise KfpError(refusal, answer.status)
        try:
            found = parse_json(answer.data or b"{}", "the answer")
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise KfpError(not_kfp(self.endpoint, "the answer is not KFP's"), 200)
        return found

    def _unreachable(self, error: Exception) -> KfpError:
        cause = ssl_error(error)
        if cause is None:
            return KfpError(not_kfp(self.endpoint, _reason(error)), 0)
        failure = tls_failure(cause, self._connection)
        return KfpError(
            not_kfp(self.endpoint, failure.what, failure.remedy), 0, transient=not failure.lasting
        )


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, KfpError) and error.transient


def _reason(error: Exception) -> str:
    text = str(error.args[-1] if error.args else error) or type(error).__name__
    return text.rsplit(": ", 1)[-1] if isinstance(error, urllib3.exceptions.HTTPError) else text


def _equals(key: str, value: str) -> str:
    """KFP's filter for one exact value."""
    return json.dumps({"predicates": [{"key": key, "operation": "EQUALS", "stringValue": value}]})


def _quoted(some_id: str) -> str:
    """A part of a path: ids are typed by people."""
    return quote(some_id, safe="")


def _given(values: Object) -> Object:
    return {key: value for key, value in values.items() if value is not None}
