"""The way to Kubeflow Pipelines: TLS with an authority of its own, and every kind of credentials of
a kubeconfig, through a server that plays the API server with its proxy."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from servers.kfp import KfpServer
from servers.kube_api import KubeApi
from servers.objects import ImageServer, ObjectServer
from servers.tls import ADDRESS, Authority

from pipelines.kfp_client import watch_run
from pipelines.kfp_client.api import Kfp
from pipelines.kfp_client.endpoint import Endpoint
from pipelines.kfp_client.errors import PROXY_GRANTS, KfpError
from sdpose.errors import UserError

CLUSTER = Path(__file__).with_name("cluster.yaml")
EXPERIMENT = ("--exp", "sdpose_t", "--cluster", CLUSTER)
LAB = Endpoint("kubeconfig:lab", "--endpoint")


@pytest.fixture
def kube_api(
    kfp_server: KfpServer,
    object_server: ObjectServer,
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[KubeApi]:
    """Everybody has the rights of the Role that people are given."""
    for variable in ("KFP_TOKEN", "KFP_COOKIE", "SSL_CERT_FILE", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("HTTPS_PROXY", "HTTP_PROXY"):  # which the Kubernetes client would use
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.lower(), raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    with KubeApi(tmp_path, kfp_server.server_port, object_server.server_port) as server:
        role = yaml.safe_load((repository / "k8s/kfp-proxy.yaml").read_text(encoding="utf-8"))
        [rule] = role["rules"]
        assert (rule["resources"], rule["apiGroups"]) == (["services/proxy"], [""])
        server.grant(role["metadata"]["namespace"], rule["resourceNames"], rule["verbs"])
        server.start()
        yield server
        server.shutdown()


class Plugin:
    """A credential plugin: prints what `answer` says, and counts how often it was asked."""

    def __init__(self, folder: Path) -> None:
        self.program, self._answer, self._log = (
            folder / name for name in ("plugin", "credential.json", "plugin.log")
        )
        self.program.write_text(
            f"#!/bin/sh\necho asked >> {self._log}\ncat {self._answer}\n", encoding="utf-8"
        )
        self.program.chmod(0o755)

    def answer(self, **status: str) -> None:
        version = "client.authentication.k8s.io/v1"
        content = {"apiVersion": version, "kind": "ExecCredential", "status": status}
        self._answer.write_text(json.dumps(content))

    @property
    def user(self) -> dict[str, Any]:
        version = "client.authentication.k8s.io/v1"
        how = {"apiVersion": version, "command": str(self.program), "interactiveMode": "Never"}
        return {"exec": how}

    @property
    def asked(self) -> int:
        return len(self._log.read_text().splitlines()) if self._log.exists() else 0


def certificate_user(kube_api: KubeApi, name: str = "ada") -> dict[str, str]:
    certificate, key = kube_api.authority.issue(name)
    return {"client-certificate": str(certificate), "client-key": str(key)}


def test_client_certificate(kube_api: KubeApi, tmp_path: Path) -> None:
    kube_api.kubeconfig(tmp_path / "kubeconfig", certificate_user(kube_api))
    assert not Kfp(LAB).server().multi_user
    assert kube_api.users == ["ada"]
    assert kube_api.proxied == ["GET /apis/v2beta1/healthz"]


def test_token_that_is_replaced(kube_api: KubeApi, tmp_path: Path) -> None:
    kube_api.kubeconfig(tmp_path / "kubeconfig", {"token": "first"})
    kube_api.tokens = {"first"}
    kfp = Kfp(LAB)
    first = kfp.experiment("one", None)
    kube_api.tokens = {"second"}
    with pytest.raises(KfpError, match=r"(?s)does not accept your credentials.*sign in again"):
        kfp.experiment("one", None)
    kube_api.kubeconfig(tmp_path / "kubeconfig", {"token": "second"})
    assert kfp.experiment("one", None) == first
    kfp.experiment("two", None)  # a POST, too
    assert set(kube_api.users) == {"token:first", "token:second"}
    assert all("/apis/v2beta1/" in request for request in kube_api.proxied)


def test_token_file_that_is_replaced(kube_api: KubeApi, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    kube_api.kubeconfig(tmp_path / "kubeconfig", {"tokenFile": str(token)})
    kube_api.tokens = {"first"}
    kfp = Kfp(LAB)
    assert not kfp.server().multi_user
    token.write_text("second\n")
    kube_api.tokens = {"second"}
    assert not kfp.server().multi_user


def test_plugin_is_asked_again_when_its_token_expires(kube_api: KubeApi, tmp_path: Path) -> None:
    plugin = Plugin(tmp_path)
    kube_api.kubeconfig(tmp_path / "kubeconfig", plugin.user)
    plugin.answer(token="first", expirationTimestamp="2026-01-01T00:00:00Z")
    kube_api.tokens = {"first"}
    kfp = Kfp(LAB)
    assert not kfp.server().multi_user
    plugin.answer(token="second", expirationTimestamp="2126-01-01T00:00:00Z")
    kube_api.tokens = {"second"}
    assert not kfp.server().multi_user
    asked = plugin.asked
    assert not kfp.server().multi_user
    assert plugin.asked == asked, "a token that is valid is kept"
    # One that was revoked before its time.
    plugin.answer(token="third", expirationTimestamp="2126-01-01T00:00:00Z")
    kube_api.tokens = {"third"}
    assert not kfp.server().multi_user
    assert kube_api.proxied == ["GET /apis/v2beta1/healthz"] * 4


def test_plugin_that_gives_certificates(kube_api: KubeApi, tmp_path: Path) -> None:
    plugin = Plugin(tmp_path)
    kube_api.kubeconfig(tmp_path / "kubeconfig", plugin.user)
    certificate, key = kube_api.authority.issue("grace")
    plugin.answer(clientCertificateData=certificate.read_text(), clientKeyData=key.read_text())
    assert not Kfp(LAB).server().multi_user
    assert kube_api.users == ["grace"]


def test_plugin_that_fails(
    kube_api: KubeApi, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plugin = Plugin(tmp_path)
    kube_api.kubeconfig(tmp_path / "kubeconfig", plugin.user)
    kube_api.tokens = {"first"}
    with pytest.raises(UserError, match=r"(?s)plugin of context 'lab' .*process returned 1"):
        Kfp(LAB)
    plugin.answer(token="first", expirationTimestamp="2026-01-01T00:00:00Z")
    kfp = Kfp(LAB)
    plugin.program.write_text("#!/bin/sh\necho your session has expired >&2\nexit 1\n")
    with pytest.raises(KfpError, match=r"your session has expired") as caught:
        kfp.server()
    assert caught.value.transient, "whoever waits for a run goes on waiting"
    plugin.program.unlink()
    with pytest.raises(UserError, match=r"(?s)No such file or directory: '.*/plugin'.*install it"):
        Kfp(LAB)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"current-context": ""}, r"has no current context: .*there are: lab"),
        ({"contexts": [{"name": "lab"}]}, r"cannot be used: .*key context"),
        ({"clusters": []}, r"cannot be used: .*clusters"),
        ({"users": [{"name": "ada", "user": {"tokenFile": "/nowhere"}}]}, "/nowhere"),
    ],
)
def test_kubeconfig_that_is_wrong(
    kube_api: KubeApi, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = kube_api.kubeconfig(tmp_path / "kubeconfig", {"token": "first"})
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))
    with pytest.raises(UserError, match=message):
        Kfp(Endpoint("kubeconfig", "--endpoint"))


def test_kubeconfig_that_is_not_there(kube_api: KubeApi, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no kubeconfig at .*set \$KUBECONFIG"):
        Kfp(LAB)
    kube_api.kubeconfig(tmp_path / "kubeconfig", {"token": "first"})
    with pytest.raises(UserError, match=r"no context 'laa': did you mean 'lab'"):
        Kfp(Endpoint("kubeconfig:laa", "--endpoint"))
    for text, message in (("{", "cannot be used: while parsing"), ("[1]", "it is malformed")):
        (tmp_path / "kubeconfig").write_text(text)
        with pytest.raises(UserError, match=message):
            Kfp(LAB)


def test_what_kubernetes_refuses(kube_api: KubeApi, tmp_path: Path) -> None:
    kube_api.kubeconfig(tmp_path / "kubeconfig", certificate_user(kube_api))
    kfp = Kfp(LAB)
    kube_api.allowed -= {("kubeflow", "ml-pipeline:http", "create")}
    with pytest.raises(KfpError, match="cannot create resource") as refused:
        kfp.experiment("one", None)
    for command in PROXY_GRANTS:
        assert command in str(refused.value)
    kube_api.has_pod = False
    with pytest.raises(KfpError, match=r"(?s)no endpoints available.*get pods -l app=ml-pip") as no:
        kfp.server()
    assert no.value.transient
    kube_api.service = "another"
    with pytest.raises(KfpError, match=r'(?s)services "ml-pipeline" not found.*another context'):
        kfp.run("1")


def test_kfp_for_several_users_does_not_know_who_asks(
    kube_api: KubeApi, kfp_server: KfpServer, tmp_path: Path
) -> None:
    kube_api.kubeconfig(tmp_path / "kubeconfig", certificate_user(kube_api))
    kfp_server.token = "of a user"
    with pytest.raises(KfpError, match=r"(?s)the API server hands on no credentials.*\$KFP_TOKEN"):
        Kfp(LAB).server()


def test_authority_that_is_missing(
    kube_api: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = Endpoint(kube_api.url, "--endpoint")
    issued = "issued by 'commonName=the cluster of the tests', which is not among those trusted"
    with pytest.raises(KfpError, match=rf"(?s){issued}: the public.*set \$SSL_CERT_FILE") as caught:
        Kfp(url).server()
    assert not caught.value.transient
    wrong = Authority(tmp_path / "wrong", "another")
    user = certificate_user(kube_api)
    kube_api.kubeconfig(tmp_path / "kubeconfig", user, **{"certificate-authority": str(wrong.file)})
    with pytest.raises(
        KfpError,
        match=rf"(?s){issued}: the certificate-authority of cluster 'cluster' in .*set-clu",
    ):
        Kfp(LAB).server()
    kube_api.kubeconfig(tmp_path / "kubeconfig", user, **{"certificate-authority": None})
    with pytest.raises(KfpError, match=issued):
        Kfp(LAB).server()
    # What kubectl does: without an authority in the file, those of the system.
    monkeypatch.setenv("SSL_CERT_FILE", str(kube_api.authority.file))
    assert not Kfp(LAB).server().multi_user
    with pytest.raises(KfpError, match="HTTP 401"):  # of the API server, which is no KFP
        Kfp(url).server()


def test_authority_file_that_is_wrong(
    kube_api: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = Endpoint(kube_api.url, "--endpoint")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nothing.pem"))
    with pytest.raises(UserError, match=r"SSL_CERT_FILE is .*nothing.pem, which is no file"):
        Kfp(url)
    (tmp_path / "nothing.pem").write_text("no certificate\n")
    with pytest.raises(UserError, match=r"(?s)nothing.pem\) holds no certificate.*PEM"):
        Kfp(url).server()


def test_certificates_that_do_not_fit(
    kube_api: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = Endpoint(kube_api.url, "--endpoint")
    monkeypatch.setenv("SSL_CERT_FILE", str(kube_api.authority.file))
    kube_api.use(*kube_api.authority.issue("old", ADDRESS, days=-1))
    with pytest.raises(KfpError, match=r"(?s)not valid today \(certificate has expired.*renew it"):
        Kfp(url).server()
    kube_api.use(*kube_api.authority.issue("elsewhere", "127.0.0.9"))
    with pytest.raises(KfpError, match=r"for another host .*127.0.0.1"):
        Kfp(url).server()
    stranger = Authority(tmp_path / "stranger", "a stranger").issue("eve")
    user = {"client-certificate": str(stranger[0]), "client-key": str(stranger[1])}
    kube_api.use(*kube_api.authority.issue("server", ADDRESS))
    kube_api.kubeconfig(tmp_path / "kubeconfig", user)
    refused = r"(?s)(refuses the connection in TLS|TLS has failed).*client-certificate"
    with pytest.raises(KfpError, match=refused):
        Kfp(LAB).server()


def test_plain_http_where_tls_is_expected(kube_api: KubeApi, kfp_server: KfpServer) -> None:
    url = Endpoint(kfp_server.url.replace("http://", "https://"), "--endpoint")
    with pytest.raises(KfpError, match=r"(?s)does not speak TLS.*http://"):
        Kfp(url).server()


def test_private_authority_in_front_of_kfp(
    kube_api: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Kubernetes: any endpoint whose certificate is of a private authority."""
    monkeypatch.setenv("SSL_CERT_FILE", str(kube_api.authority.file))
    monkeypatch.setenv("KFP_TOKEN", "a-token\n")
    kube_api.tokens = {"a-token"}
    path = "/api/v1/namespaces/kubeflow/services/ml-pipeline:http/proxy"
    assert not Kfp(Endpoint(kube_api.url + path, "--endpoint")).server().multi_user
    monkeypatch.setenv("KFP_TOKEN", "a token")
    with pytest.raises(UserError, match=r"\$KFP_TOKEN is no token: it holds spaces") as caught:
        Kfp(Endpoint(kube_api.url, "--endpoint"))
    assert "a token" not in str(caught.value)


def test_waiting_outlasts_credentials_that_expire(
    kube_api: KubeApi, kfp_server: KfpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And an API server that was restarted: it answers 403 until it knows the roles again."""
    monkeypatch.setattr(watch_run, "FIRST_POLL_S", 0.05)
    kube_api.kubeconfig(tmp_path / "kubeconfig", {"token": "first"})
    kube_api.tokens = {"first"}
    rights = set(kube_api.allowed)
    run = kfp_server.add("runs", "run_id", {"script": ["RUNNING", "RUNNING", "SUCCEEDED"]})
    said: list[str] = []

    def on_line(text: str, **_: Any) -> None:
        said.append(text)
        if len(said) == 1:  # RUNNING
            kube_api.tokens = {"second"}
        elif "HTTP 401" in text:
            kube_api.allowed = set()
            kube_api.kubeconfig(tmp_path / "kubeconfig", {"token": "second"})
            threading.Timer(1.0, kube_api.allowed.update, [rights]).start()

    monkeypatch.setattr(watch_run, "say", on_line)
    ended = watch_run.wait_for_run(Kfp(LAB), run["run_id"])
    assert ended["state"] == "SUCCEEDED"
    assert ["still trying" in text and "the run goes on" in text for text in said] == [
        *(False, True, False)
    ]
    assert said[2] == "kubeconfig:lab answers again"
    kube_api.allowed = set()
    with pytest.raises(KfpError, match="does not let you reach"):  # it has never answered
        watch_run.wait_for_run(Kfp(LAB), run["run_id"])


def test_a_run_from_check_to_cancel(
    submit,
    kube_api: KubeApi,
    kfp_server: KfpServer,
    object_server: ObjectServer,
    image_server: ImageServer,
    tmp_path: Path,
) -> None:
    """As a user does it: every command is a process, with a plugin whose token expires at once."""
    plugin = Plugin(tmp_path)
    plugin.answer(token="of-the-plugin", expirationTimestamp="2026-01-01T00:00:00Z")
    kube_api.tokens = {"of-the-plugin", "of-another-cluster"}
    path = kube_api.kubeconfig(tmp_path / "kubeconfig", plugin.user)
    # The current context is another one, where nothing may be asked.
    config = yaml.safe_load(path.read_text())
    config["users"].append({"name": "bob", "user": {"token": "of-another-cluster"}})
    config["contexts"].append({"name": "home", "context": {"cluster": "cluster", "user": "bob"}})
    config["current-context"] = "home"
    path.write_text(yaml.safe_dump(config))
    object_server.objects["/api/v1/namespaces/pose"] = {"metadata": {"name": "pose"}}

    def run(*command: str | Path) -> tuple[int, str]:
        process: subprocess.Popen[str] = submit(
            *command, "--endpoint", "kubeconfig:lab", cwd=tmp_path, KUBECONFIG=str(path)
        )
        stdout, stderr = process.communicate(timeout=300)
        assert "Traceback" not in stdout + stderr
        return process.returncode, stdout + stderr

    code, output = run(*EXPERIMENT, "--check")
    assert (code, "answers at kubeconfig:lab, for one user" in output) == (2, True), output
    assert "there is no volume claim coco" in output  # asked in the same context
    assert set(kube_api.users) == {"token:of-the-plugin"}
    kfp_server.script = ["RUNNING", "FAILED"]
    code, output = run(*EXPERIMENT, "--wait")
    (first,) = kfp_server.of("runs")
    assert (code, f"submit.py resume {first['run_id']}" in output) == (1, True), output
    code, output = run("resume", first["run_id"], "--wait")
    assert (code, "run SUCCEEDED" in output) == (0, True), output
    code, output = run(*EXPERIMENT, "--schedule", "0 3 * * 1")
    (schedule,) = kfp_server.of("recurringruns")
    code, output = run("cancel", schedule["recurring_run_id"])
    assert (code, kfp_server.of("recurringruns")) == (0, []), output
    assert kube_api.used == kube_api.allowed, "rights that nobody needs"
    code, output = run("cancel", first["run_id"])
    assert (code, "had ended already" in output) == (0, True), output
    assert set(kube_api.users) == {"token:of-the-plugin"}, "the job is looked for there, too"
    kube_api.allowed = set()
    code, output = run("cancel", first["run_id"])
    assert (code, "cannot get resource" in output) == (2, True), output
    kube_api.tokens = set()
    code, output = run(*EXPERIMENT, "--check")
    assert (code, "does not accept your credentials (HTTP 401" in output) == (2, True), output
    assert "all that Kubernetes would tell: it does not accept your credentials" in output
