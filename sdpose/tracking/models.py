"""MLflow's registered models: their versions, tags and aliases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sdpose.tracking.server import connect, mlflow_errors

PAGE = 1000


@dataclass(frozen=True)
class ListedVersion:
    number: str
    tags: Mapping[str, str]


def create_version(name: str, source: str, run_id: str | None, tags: Mapping[str, str]) -> str:
    """Creates a version of the registered model `name` (created if new); returns its number."""
    client = connect()
    from mlflow.exceptions import MlflowException

    with mlflow_errors():
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        version = client.create_model_version(
            name, source, run_id=run_id, tags=dict(tags), await_creation_for=0
        )
    return str(version.version)


def list_versions(name: str | None, tag: tuple[str, str] | None = None) -> list[ListedVersion]:
    """The versions of a model in MLflow, by number; none if MLflow does not know the model.

    Args:
        name: None for all models.
        tag: only versions with this tag and value.
    """
    client = connect()
    filters = [f"name = '{name}'"] if name else []
    filters += [f"tags.`{tag[0]}` = '{tag[1]}'"] if tag else []
    wanted = " and ".join(filters)
    found, token = [], None
    with mlflow_errors():
        while True:
            page = client.search_model_versions(wanted, max_results=PAGE, page_token=token)
            found += [ListedVersion(str(each.version), dict(each.tags)) for each in page]
            token = page.token
            if not token:
                return sorted(found, key=lambda each: int(each.number))


def tag_version(name: str, number: str, tags: Mapping[str, str]) -> None:
    client = connect()
    with mlflow_errors():
        for key, value in tags.items():
            client.set_model_version_tag(name, number, key, value)


def delete_version(name: str, number: str) -> None:
    """Deletes a version; MLflow deletes its aliases, too."""
    client = connect()
    with mlflow_errors():
        client.delete_model_version(name, number)


def aliases(name: str) -> dict[str, str]:
    """The version number of each alias; empty for a model that MLflow does not know."""
    client = connect()
    from mlflow.exceptions import MlflowException

    with mlflow_errors():
        try:
            return {k: str(v) for k, v in client.get_registered_model(name).aliases.items()}
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return {}


def set_alias(name: str, alias: str, number: str) -> None:
    client = connect()
    with mlflow_errors():
        client.set_registered_model_alias(name, alias, number)


def delete_alias(name: str, alias: str) -> None:
    client = connect()
    with mlflow_errors():
        client.delete_registered_model_alias(name, alias)
