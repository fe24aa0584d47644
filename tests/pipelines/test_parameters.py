"""Kubernetes' and Kubeflow's own syntax in what a user writes arrives as it is, or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from components.launcher import build_job
from components.launcher.pod import literal
from components.profile import parse_cluster
from pipelines.cluster.run_on_cluster import read_cluster
from pipelines.kfp_client.endpoint import Endpoint, find_endpoint
from pipelines.parameters import check_parameter
from pipelines.sdpose_pipeline import compile_pipeline, make_pipeline
from sdpose.config import load_experiment
from sdpose.errors import UserError
from tests.cluster.kube.expansion import expand

PROFILE: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("cluster.yaml").read_text())
VARIABLES = {"AWS_SECRET_ACCESS_KEY": "hunter2secret", "A": "x", "": "y"}


@given(st.text("$()AB ", max_size=12))
def test_a_literal_text_is_what_kubernetes_makes_of_it(text: str) -> None:
    assert expand(literal(text), VARIABLES) == text


@pytest.mark.parametrize("train_api", ["pytorchjob", "trainjob"])
def test_no_secret_gets_into_a_pods_command_or_variables(train_api: str) -> None:
    reference = "$(AWS_SECRET_ACCESS_KEY)"
    cluster = parse_cluster(
        yaml.safe_dump(
            PROFILE
            | {"data_root": f"s3://bucket/{reference}/x", "train_api": train_api}
            | {"env": {"NOTE": f"{reference} $${reference}"}}
        )
    )
    experiment = load_experiment("sdpose_t", **cluster.places("sdpose_t"))
    job = build_job("job", experiment, cluster)
    spec = job["spec"]
    container = (
        spec["trainer"]
        if train_api == "trainjob"
        else spec["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]
    )
    for word in container["command"]:
        assert "hunter2" not in expand(word, VARIABLES)
    assert f"s3://bucket/{reference}/x" in expand(container["command"][-1], VARIABLES)
    (note,) = [each["value"] for each in container["env"] if each["name"] == "NOTE"]
    assert expand(note, VARIABLES) == f"{reference} $${reference}"


def test_a_steps_variables_are_literal(tmp_path: Path) -> None:
    cluster = parse_cluster(yaml.safe_dump(PROFILE | {"env": {"NOTE": "$(HOME)"}}))
    package = tmp_path / "pipeline.yaml"
    compile_pipeline(make_pipeline(cluster), package)
    [document, *_] = yaml.safe_load_all(package.read_text())
    notes = [
        variable["value"]
        for executor in document["deploymentSpec"]["executors"].values()
        for variable in executor["container"].get("env", [])
        if variable["name"] == "NOTE"
    ]
    assert notes
    assert set(notes) == {"$$(HOME)"}


def test_an_endpoint_with_credentials_is_refused() -> None:
    address = "https://kim:hunter2secret@kubeflow.test"
    for arguments in ((address,), (None, address), (None, None, {"KFP_ENDPOINT": address})):
        with pytest.raises(UserError, match="KFP_TOKEN") as refused:
            find_endpoint(*arguments)
        assert "hunter2" not in str(refused.value)
    assert "hunter2" not in Endpoint(address, "a test").run_page("1")


@pytest.mark.parametrize("key", ["data_root", "env"])
def test_a_reference_in_a_parameter_is_refused(key: str, tmp_path: Path) -> None:
    """KFP hands parameters on as arguments of pods, twice; no escape survives that."""
    value = "s3://bucket/$(AWS_SECRET_ACCESS_KEY)"
    profile = tmp_path / "cluster.yaml"
    profile.write_text(yaml.safe_dump(PROFILE | {key: {"X": value} if key == "env" else value}))
    with pytest.raises(UserError, match=r"\$\(AWS_SECRET_ACCESS_KEY\)' cannot be part"):
        read_cluster(str(profile), ())
    check_parameter("x", value, in_pods=False)  # on this machine nothing replaces it
    with pytest.raises(UserError, match="Kubeflow's own syntax"):
        check_parameter("x", "a: '{{$.x}}'", in_pods=False)
