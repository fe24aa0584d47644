"""Who may open a connection to whom, by the rules of NetworkPolicy: both ends must agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

Object = dict[str, Any]
Objects = Callable[[str], list[Object]]

NAMESPACE_LABEL = "kubernetes.io/metadata.name"


@dataclass(frozen=True)
class Pod:
    labels: dict[str, str]
    namespace: str = "sdpose"


@dataclass(frozen=True)
class Outside:
    """The internet, S3 and the API server: addresses that no selector matches."""

    address: str = "203.0.113.7"


NAME = "app.kubernetes.io/name"
TRAINER = Pod({NAME: "sdpose"})
STEP = Pod({"workflows.argoproj.io/workflow": "sdpose-x"})
MLFLOW = Pod({NAME: "mlflow"})
POSTGRES = Pod({NAME: "postgres"})
S3 = Pod({NAME: "s3"})
STRANGER = Pod({"app": "notebook"})
CLIENT = Pod({"app": "notebook", "sdpose/mlflow-client": "true"})
COREDNS = Pod({"k8s-app": "kube-dns"}, "kube-system")
KFP = Pod({"app": "ml-pipeline"}, "kubeflow")
KUBEFLOW_TRAINER = [
    Pod({"app.kubernetes.io/component": "manager"}, namespace)
    for namespace in ("kubeflow-system", "kubeflow")
]
OTHER_TEAM = Pod({NAME: "sdpose"}, "other-team")

ALLOWED = [
    (TRAINER, TRAINER, 23456),  # rendezvous
    (TRAINER, TRAINER, 48123),  # NCCL, gloo
    (TRAINER, MLFLOW, 5000),
    (TRAINER, Outside(), 443),
    *((TRAINER, server, 10443) for server in KUBEFLOW_TRAINER),  # a TrainJob's status
    (STEP, MLFLOW, 5000),
    (STEP, KFP, 8887),
    (STEP, KFP, 8888),
    (STEP, Outside(), 443),
    (STEP, Outside(), 6443),
    (MLFLOW, POSTGRES, 5432),
    (MLFLOW, Outside(), 443),
    *((pod, COREDNS, 53) for pod in (TRAINER, STEP, MLFLOW, POSTGRES, STRANGER)),
]
REFUSED = [
    (TRAINER, POSTGRES, 5432),
    (STEP, POSTGRES, 5432),
    (STRANGER, POSTGRES, 5432),
    (CLIENT, POSTGRES, 5432),
    # (From where it may come is MLflow's to say; where it may go is a policy of its own.)
    (STRANGER, MLFLOW, 5000),
    (POSTGRES, MLFLOW, 5000),
    (TRAINER, Outside(), 6443),
    (TRAINER, Outside(), 80),
    (TRAINER, KFP, 8888),
    *((TRAINER, server, 8443) for server in KUBEFLOW_TRAINER),
    (TRAINER, Outside(), 10443),
    (TRAINER, COREDNS, 8080),
    (STEP, TRAINER, 23456),
    (STRANGER, TRAINER, 23456),
    (OTHER_TEAM, TRAINER, 23456),
    (OTHER_TEAM, MLFLOW, 5000),
    (POSTGRES, Outside(), 443),
    (STRANGER, Outside(), 443),
    (MLFLOW, Outside(), 80),
]


@pytest.mark.parametrize("overlay", ["base", "overlays/dev", "overlays/prod"])
def test_exactly_what_is_needed_is_open(render: Objects, overlay: str) -> None:
    policies = [each for each in render(overlay) if each["kind"] == "NetworkPolicy"]
    for source, target, port in ALLOWED:
        assert _may_connect(policies, source, target, port), (source, target, port)
    for source, target, port in REFUSED:
        assert not _may_connect(policies, source, target, port), (source, target, port)


@pytest.mark.parametrize("overlay", ["base", "overlays/dev", "overlays/prod"])
def test_who_is_let_in_by_mlflow(render: Objects, overlay: str) -> None:
    policies = [each for each in render(overlay) if each["kind"] == "NetworkPolicy"]
    for source in (TRAINER, STEP, CLIENT):
        assert _open(policies, "Ingress", MLFLOW, source, 5000)
    for source in (STRANGER, POSTGRES, S3, OTHER_TEAM, Pod(CLIENT.labels, "other-team")):
        assert not _open(policies, "Ingress", MLFLOW, source, 5000)


def test_what_is_outside_can_be_narrowed(render: Objects) -> None:
    """With k8s/components/egress: S3 and the API server, by their addresses."""
    policies = [each for each in render("overlays/full") if each["kind"] == "NetworkPolicy"]
    s3, api_server, elsewhere = (
        Outside(address) for address in ("192.0.2.9", "198.51.100.1", "203.0.113.7")
    )
    for source in (TRAINER, MLFLOW, STEP):
        assert _may_connect(policies, source, s3, 443)
        assert not _may_connect(policies, source, elsewhere, 443)
    assert _may_connect(policies, STEP, api_server, 6443)
    assert not _may_connect(policies, TRAINER, api_server, 443)
    assert not _may_connect(policies, STEP, elsewhere, 6443)
    assert _may_connect(policies, TRAINER, MLFLOW, 5000)
    maker = Pod({NAME: "mlflow-user", "sdpose/mlflow-client": "true"})
    assert _may_connect(policies, maker, MLFLOW, 5000)
    assert not _may_connect(policies, maker, s3, 443)


def test_the_s3_server_of_dev_is_reached_by_those_who_need_s3(render: Objects) -> None:
    policies = [each for each in render("overlays/dev") if each["kind"] == "NetworkPolicy"]
    maker = Pod({NAME: "make-bucket"})
    for source in (TRAINER, STEP, MLFLOW, maker):
        assert _may_connect(policies, source, S3, 8333)
    for source in (POSTGRES, STRANGER, OTHER_TEAM):
        assert not _may_connect(policies, source, S3, 8333)


def _may_connect(policies: list[Object], source: Pod, target: Pod | Outside, port: int) -> bool:
    return _open(policies, "Egress", source, target, port) and (
        isinstance(target, Outside) or _open(policies, "Ingress", target, source, port)
    )


def _open(policies: list[Object], direction: str, pod: Pod, peer: Pod | Outside, port: int) -> bool:
    if pod.namespace != "sdpose":
        return True  # not ours to say
    applying = [
        policy["spec"]
        for policy in policies
        if direction in policy["spec"]["policyTypes"]
        and _selects(policy["spec"]["podSelector"], pod.labels)
    ]
    assert applying, "default-deny applies to every pod"
    rules = [rule for spec in applying for rule in spec.get(direction.lower(), [])]
    peers = "to" if direction == "Egress" else "from"
    return any(
        ("ports" not in rule or port in [each["port"] for each in rule["ports"]])
        and (peers not in rule or any(_is_peer(each, peer) for each in rule[peers]))
        for rule in rules
    )


def _is_peer(rule: Object, peer: Pod | Outside) -> bool:
    if isinstance(peer, Outside):
        block = rule.get("ipBlock")
        return block is not None and ip_address(peer.address) in ip_network(block["cidr"])
    if "ipBlock" in rule:
        return False
    if "namespaceSelector" in rule:
        if not _selects(rule["namespaceSelector"], {NAMESPACE_LABEL: peer.namespace}):
            return False
    elif peer.namespace != "sdpose":
        return False
    return _selects(rule.get("podSelector", {}), peer.labels)


def _selects(selector: Object, labels: dict[str, str]) -> bool:
    for expression in selector.get("matchExpressions", []):
        if expression["key"] not in labels:
            return False
        if expression["operator"] == "In":
            if labels[expression["key"]] not in expression["values"]:
                return False
        else:
            assert expression["operator"] == "Exists"
    return selector.get("matchLabels", {}).items() <= labels.items()
