"""What is asked of Kubeflow Pipelines (REST v2beta1), with errors that say what to do.

kfp's own client is not used: it cannot retry a run, prints, and neither limits the time of a
request nor explains why one was refused. The generated client below it can be told all that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kfp_server_api  # type: ignore[import-untyped]
import urllib3

from pipelines.kfp_client.connection import Connection
from pipelines.kfp_client.endpoint import Endpoint
from pipelines.kfp_client.errors import KfpError, explain_refusal, not_kfp, refused_by_kubernetes
from pipelines.kfp_client.tls_errors import ssl_error, tls_failure
from sdpose.credentials import invalid_header
from sdpose.errors import UserError
from sdpose.retry import retrying

CONNECT_TIMEOUT_S = 5.0
TIMEOUT_S = 20.0  # of one request
PATIENCE_S = 30.0  # for requests that can be sent again


@dataclass(frozen=True)
class Server:
    multi_user: bool
    version: str  # of its release; "" if it does not say


class Kfp:
    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._connection = Connection(endpoint)
        self._client = client = self._connection.client
        self._experiments = kfp_server_api.ExperimentServiceApi(client)
        self._pipelines = kfp_server_api.PipelineServiceApi(client)
        self._recurring = kfp_server_api.RecurringRunServiceApi(client)
        self._runs = kfp_server_api.RunServiceApi(client)
        self._uploads = kfp_server_api.PipelineUploadServiceApi(client)

    def server(self) -> Server:
        """Raises KfpError within seconds if nothing that looks like KFP answers."""
        try:
            # The generated method leaves out what KFP does not declare: its version.
            found = self._send(
                "talk to it",
                self._client.call_api,
                resource_path="/apis/v2beta1/healthz",
                method="GET",
                header_params={"Accept": "application/json"},
                response_type="object",
                auth_settings=["Bearer"],
                _return_http_data_only=True,
            )
        except KfpError as error:
            if error.status != 404:
                raise
            raise KfpError(not_kfp(self.endpoint, "HTTP 404"), 404) from None
        if not isinstance(found, dict) or "multi_user" not in found:
            raise KfpError(not_kfp(self.endpoint, "the answer is not KFP's"), 200)
        version = str(found.get("tag_name") or "").removeprefix("v")
        return Server(bool(found["multi_user"]), version if version[:1].isdigit() else "")

    def experiment(self, name: str, namespace: str | None) -> str:
        """The id of the experiment, which is made if it is not there."""
        api = self._experiments
        found = self._read(
            "list experiments",
            api.experiment_service_list_experiments,
            filter=_equals("display_name", name),
            **_given(namespace=namespace),
        )
        if found.experiments:
            return str(found.experiments[0].experiment_id)
        new = kfp_server_api.V2beta1Experiment(display_name=name, namespace=namespace)
        made = self._send(
            "create the experiment", api.experiment_service_create_experiment, experiment=new
        )
        return str(made.experiment_id)

    def pipeline_version(
        self, name: str, package: Path, namespace: str | None
    ) -> kfp_server_api.V2beta1PipelineVersionReference:
        """The package as a version of the pipeline `name`, uploaded if it is new.

        A version is named after its bytes: the same package is the same version.
        """
        api = self._pipelines
        found = self._read(
            "list pipelines",
            api.pipeline_service_list_pipelines,
            filter=_equals("display_name", name),
            **_given(namespace=namespace),
        )
        pipeline = found.pipelines[0] if found.pipelines else None
        if pipeline is None:
            new = kfp_server_api.V2beta1Pipeline(display_name=name, namespace=namespace)
            pipeline = self._send(
                "create the pipeline", api.pipeline_service_create_pipeline, pipeline=new
            )
        version_name = f"{name}-{hashlib.sha256(package.read_bytes()).hexdigest()[:12]}"
        versions = self._read(
            "list pipeline versions",
            api.pipeline_service_list_pipeline_versions,
            pipeline_id=pipeline.pipeline_id,
            filter=_equals("display_name", version_name),
        )
        if versions.pipeline_versions:
            version = versions.pipeline_versions[0]
        else:
            version = self._send(
                "upload the pipeline",
                self._uploads.upload_pipeline_version,
                uploadfile=str(package),
                name=version_name,
                pipelineid=pipeline.pipeline_id,
            )
        return kfp_server_api.V2beta1PipelineVersionReference(
            pipeline_id=pipeline.pipeline_id, pipeline_version_id=version.pipeline_version_id
        )

    def create_run(self, run: kfp_server_api.V2beta1Run) -> str:
        """Starts the run; returns its id. Its display name must be unique.

        Sent once: of an answer that is lost on the way, the run itself tells.
        """
        try:
            made = self._send("start the run", self._runs.run_service_create_run, run=run)
            return str(made.run_id)
        except KfpError as error:
            if not error.transient:
                raise
            for known in self.runs(run.experiment_id, name=run.display_name):
                return str(known.run_id)
            raise

    def run(self, run_id: str) -> kfp_server_api.V2beta1Run:
        return self._read(f"see run {run_id}", self._runs.run_service_get_run, run_id=run_id)

    def runs(self, experiment_id: str, name: str = "", count: int = 10) -> list[Any]:
        """The newest runs of an experiment, newest first."""
        found = self._read(
            "list runs",
            self._runs.run_service_list_runs,
            experiment_id=experiment_id,
            sort_by="created_at desc",
            page_size=count,
            **_given(filter=_equals("display_name", name) if name else None),
        )
        return list(found.runs or [])

    def retry(self, run_id: str) -> None:
        self._send(f"retry run {run_id}", self._runs.run_service_retry_run, run_id=run_id)

    def terminate(self, run_id: str) -> None:
        # Sent again, it changes nothing.
        self._read(f"end run {run_id}", self._runs.run_service_terminate_run, run_id=run_id)

    def create_schedule(self, schedule: kfp_server_api.V2beta1RecurringRun) -> str:
        made = self._send(
            "create the schedule",
            self._recurring.recurring_run_service_create_recurring_run,
            recurring_run=schedule,
        )
        return str(made.recurring_run_id)

    def schedules(self, experiment_id: str, name: str) -> list[Any]:
        found = self._read(
            "list schedules",
            self._recurring.recurring_run_service_list_recurring_runs,
            experiment_id=experiment_id,
            filter=_equals("display_name", name),
        )
        return list(found.recurring_runs or [])

    def delete_schedule(self, schedule_id: str) -> None:
        """Raises KfpError with status 404 if there is no such schedule."""
        self._send(
            f"remove schedule {schedule_id}",
            self._recurring.recurring_run_service_delete_recurring_run,
            recurring_run_id=schedule_id,
        )

    def _read(self, what: str, request: Callable[..., Any], **values: Any) -> Any:
        """Sends a request that can be sent twice, until it gets an answer or patience ends."""
        retry = retrying(_is_transient, attempts=None, seconds=PATIENCE_S, longest_pause=8.0)
        return retry(self._send, what, request, **values)

    def _send(self, what: str, request: Callable[..., Any], **values: Any) -> Any:
        try:
            return self._once(what, request, values)
        except KfpError as error:
            # A token that was replaced. (A request that was answered so has done nothing.)
            if error.status != 401 or not self._renewed():
                raise
        return self._once(what, request, values)

    def _renewed(self) -> bool:
        try:
            return self._connection.renew()
        except UserError as error:
            raise KfpError(str(error), 401) from None

    def _once(self, what: str, request: Callable[..., Any], values: dict[str, Any]) -> Any:
        try:
            return request(**values, _request_timeout=(CONNECT_TIMEOUT_S, TIMEOUT_S))
        except kfp_server_api.ApiException as error:
            if not error.status:
                raise self._unreachable(error) from None
            if kubernetes := refused_by_kubernetes(error, self._connection):
                raise kubernetes from None
            refusal = explain_refusal(what, error, self.endpoint, self._connection)
            raise KfpError(refusal, error.status or 0) from None
        except UserError as error:  # of a plugin or a token's file, which may be right again
            raise KfpError(str(error), 0) from None
        except AttributeError as error:
            # kfp_server_api decodes the body of a TLS error, which has none.
            if ssl_error(error) is None:
                raise
            raise self._unreachable(error) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._unreachable(error) from None
        except ValueError as error:
            if refused := invalid_header(error):  # before anything was sent
                raise KfpError(f"{what}: {refused}", 0, transient=False) from None
            # of the generated client: an answer that is not KFP's
            raise KfpError(
                not_kfp(self.endpoint, f"the answer is not KFP's: {error}"), 200
            ) from None

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


def _given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
