"""The init container of workers, as the Training Operator renders it, under a real BusyBox.

$SDPOSE_BUSYBOX names more of them than the machine's own (paths with ':' between): their
`nslookup` differ in what they call a success.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import REPOSITORY

MASTER = "quickstart-1-master-0"
# As the kubelet writes it for a pod of the namespace `pose`.
RESOLV_CONF = (
    "search pose.svc.cluster.local svc.cluster.local cluster.local\n"
    "nameserver 127.0.0.1\noptions ndots:5 timeout:1 attempts:1\n"
)
FOUND = f"{MASTER}.pose.svc.cluster.local=10.1.2.3"


def busyboxes() -> list[str]:
    more = os.environ.get("SDPOSE_BUSYBOX", "").split(":")
    return [path for path in (shutil.which("busybox") or "", *more) if path] or ["no busybox"]


@pytest.fixture(scope="module")
def may_unshare() -> None:
    problem = None
    if busyboxes() == ["no busybox"]:
        problem = "busybox is not on this machine (Debian's package busybox)"
    else:
        command = ["unshare", "--net", "--mount", "mount", "-t", "tmpfs", "none", "/tmp"]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=240)
        except (OSError, subprocess.CalledProcessError) as error:
            problem = f"a private network needs root on Linux with CAP_SYS_ADMIN: {error}"
    if problem:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(problem)


def rendered(**values: str) -> dict[str, Any]:
    """The one container of the template; Go's {{.Name}} is all that it uses."""
    text = (REPOSITORY / "k8s/training-operator/initContainer.yaml").read_text()
    for name, value in values.items():
        text = text.replace("{{." + name + "}}", value)
    assert "{{" not in text
    (container,) = yaml.safe_load(text)
    return dict(container)


def run(busybox: str, tmp_path: Path, names: str, tries: int) -> subprocess.CompletedProcess[str]:
    """The container's command, with no program but this BusyBox's applets."""
    container = rendered(InitContainerImage="busybox", MasterAddr=MASTER, MaxTries=str(tries))
    assert container["command"][:2] == ["sh", "-c"]
    applets = tmp_path / "bin"
    applets.mkdir()
    for name in ("sh", "seq", "nslookup", "grep", "sleep"):
        (applets / name).symlink_to(busybox)
    (tmp_path / "resolv.conf").write_text(RESOLV_CONF)
    return subprocess.run(
        [
            *("unshare", "--net", "--mount", "--propagation", "private", "sh", "-c"),
            'mount --bind "$1" "$(readlink -f /etc/resolv.conf)"; shift; exec "$@"',
            *("sh", str(tmp_path / "resolv.conf")),
            *(sys.executable, str(REPOSITORY / "tests/servers/dns.py"), names),
            *("env", "-i", f"PATH={applets}", *container["command"]),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("busybox", busyboxes())
def test_it_goes_on_as_soon_as_the_master_has_a_name(
    busybox: str, may_unshare: None, tmp_path: Path
) -> None:
    done = run(busybox, tmp_path, FOUND, tries=2)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("busybox", busyboxes())
@pytest.mark.parametrize("names", ["", FOUND.replace("master-0", "master-1")])
def test_it_waits_for_a_name_that_is_not_there(
    busybox: str, names: str, may_unshare: None, tmp_path: Path
) -> None:
    done = run(busybox, tmp_path, names, tries=1)
    assert done.returncode == 1, done.stdout + done.stderr
