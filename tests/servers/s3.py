"""S3 servers for the tests: OpenStack Swift, and moto.

Swift is a real server: it checks signatures, checksums, multipart uploads and ranges as AWS does,
but has no safe conditional writes. moto is a mock that has them and accepts any signature and
checksum. Together they cover what a registry needs.

Fixtures of the session: `swift`, `moto`. Faults go in between with servers.proxy.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SWIFT_REQUIREMENTS = Path(__file__).with_name("swift.txt")
SWIFT_VENV = Path(os.environ.get("SDPOSE_SWIFT_VENV", REPOSITORY / ".venv-swift"))
START_SECONDS = 120  # on a machine that does much else
DIE_WITH_PARENT = ["setpriv", "--pdeathsig", "KILL"]  # of util-linux


@dataclass(frozen=True)
class S3Server:
    name: str
    url: str
    access_key: str = "test:tester"
    secret_key: str = "testing"
    bucket: str = ""  # of the session; made with the server, not by the first test that needs it

    def environment(self, url: str | None = None) -> dict[str, str]:
        """What a client needs; `url`: of a proxy in between."""
        return {
            "AWS_ENDPOINT_URL_S3": url or self.url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self):
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 5}),
        )

    def new_bucket(self) -> str:
        name = f"test-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return name

    def with_bucket(self) -> S3Server:
        return replace(self, bucket=self.new_bucket())


@pytest.fixture(scope="session")
def swift(tmp_path_factory) -> Iterator[S3Server]:
    with swift_server(tmp_path_factory.mktemp("swift")) as server:
        yield server


@pytest.fixture(scope="session")
def moto(tmp_path_factory) -> Iterator[S3Server]:
    with moto_server(tmp_path_factory.mktemp("moto")) as server:
        yield server


@contextlib.contextmanager
def moto_server(folder: Path, certificate: tuple[Path, Path] | None = None) -> Iterator[S3Server]:
    """certificate: it and its key, for https."""
    (port,) = free_ports(1)
    server = S3Server("moto", f"http{'s' if certificate else ''}://127.0.0.1:{port}")
    command = [sys.executable, "-c", _MOTO, str(port), *map(str, certificate or ())]
    with running([command], folder):
        wait_for(port, folder)
        yield server.with_bucket()


# moto looks for an object and writes it in two steps: on a busy machine two writers won a race.
_MOTO = """
import sys, threading
from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple
moto, one_at_a_time = DomainDispatcherApplication(create_backend_app), threading.Lock()
def app(environ, start_response):
    with one_at_a_time:
        return moto(environ, start_response)
run_simple("127.0.0.1", int(sys.argv[1]), app, threaded=True, request_handler=MotoRequestHandler,
           ssl_context=tuple(sys.argv[2:]) or None)
"""


@contextlib.contextmanager
def swift_server(folder: Path) -> Iterator[S3Server]:
    """One process each for proxy, accounts, containers and objects; one replica."""
    make_swift_venv()
    ports = dict(zip(("proxy", "account", "container", "object"), free_ports(4), strict=True))
    (folder / "devices" / "d1").mkdir(parents=True)
    (folder / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = tests\n")
    for name, port in ports.items():
        (folder / f"{name}.conf").write_text(_swift_configuration(name, port, folder))
    _swift_python("-c", _MAKE_RINGS, str(folder), *(f"{n}={p}" for n, p in ports.items()))
    commands = [
        [str(SWIFT_VENV / "bin/python"), f"{SWIFT_VENV}/bin/swift-{name}-server", f"{name}.conf"]
        for name in ports
    ]
    with running(commands, folder):
        for port in ports.values():
            wait_for(port, folder)
        yield S3Server("swift", f"http://127.0.0.1:{ports['proxy']}").with_bucket()


def make_swift_venv() -> None:
    """Swift in a virtual environment of its own; takes seconds, once."""
    done = SWIFT_VENV / ".done"
    SWIFT_VENV.mkdir(parents=True, exist_ok=True)
    with (SWIFT_VENV / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.is_file() and done.read_text() == SWIFT_REQUIREMENTS.read_text():
            return
        subprocess.run([sys.executable, "-m", "venv", str(SWIFT_VENV)], check=True)
        _swift_python("-m", "pip", "install", "--quiet", "-r", str(SWIFT_REQUIREMENTS))
        done.write_text(SWIFT_REQUIREMENTS.read_text())


def _swift_python(*arguments: str) -> None:
    subprocess.run([str(SWIFT_VENV / "bin/python"), *arguments], check=True, timeout=600)


_MAKE_RINGS = """
import sys
from swift.common.ring.builder import RingBuilder
folder, *servers = sys.argv[1:]
for name, port in (server.split("=") for server in servers):
    if name == "proxy":
        continue
    builder = RingBuilder(2, 1, 0)
    builder.add_dev({"id": 0, "region": 1, "zone": 1, "weight": 1, "ip": "127.0.0.1",
                     "port": int(port), "device": "d1", "replication_ip": "127.0.0.1",
                     "replication_port": int(port), "meta": ""})
    builder.rebalance()
    builder.get_ring().save(f"{folder}/{name}.ring.gz")
"""

# On a busy machine a listing would else miss an object, for ever: no updater runs.
_PATIENT = "conn_timeout = 60\nnode_timeout = 60\ncontainer_update_timeout = 60\n"

_PROXY_PIPELINE = """
[pipeline:main]
pipeline = catch_errors gatekeeper proxy-logging listing_formats s3api tempauth bulk slo dlo \
versioned_writes symlink proxy-logging proxy-server
[app:proxy-server]
use = egg:swift#proxy
conn_timeout = 60
node_timeout = 60
recoverable_node_timeout = 60
account_autocreate = true
allow_account_management = true
[filter:s3api]
use = egg:swift#s3api
s3_acl = false
min_segment_size = 1
check_bucket_owner = false
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
"""


def _swift_configuration(name: str, port: int, folder: Path) -> str:
    common = (
        f"[DEFAULT]\nbind_ip = 127.0.0.1\nbind_port = {port}\nworkers = 0\n"
        f"user = {getpass.getuser()}\nswift_dir = {folder}\ndevices = {folder}/devices\n"
        "mount_check = false\nfallocate_reserve = 0\nlog_level = WARNING\n"
    )
    if name != "proxy":
        return (
            f"{common}[pipeline:main]\npipeline = {name}-server\n"
            f"[app:{name}-server]\nuse = egg:swift#{name}\n{_PATIENT}"
        )
    plain = ("catch_errors", "gatekeeper", "listing_formats", "bulk", "slo", "dlo", "symlink")
    filters = "".join(f"[filter:{filter}]\nuse = egg:swift#{filter}\n" for filter in plain)
    return (
        f"{common}{_PROXY_PIPELINE}{filters}[filter:proxy-logging]\nuse = egg:swift#proxy_logging\n"
    )


@contextlib.contextmanager
def running(commands: list[list[str]], folder: Path) -> Iterator[None]:
    """The commands, in `folder`, their output in `output.txt` there; killed at the end."""
    with (folder / "output.txt").open("ab") as output:
        processes = [
            subprocess.Popen(
                [*DIE_WITH_PARENT, *command],
                cwd=folder,
                stdout=output,
                stderr=output,
                env={
                    **os.environ,
                    "SWIFT_CONF": f"{folder}/swift.conf",
                    "PYTHONWARNINGS": "ignore",
                    "S3_UPLOAD_PART_MIN_SIZE": "1",  # moto's
                    "MOTO_S3_DEFAULT_KEY_BUFFER_SIZE": str(16 << 20),
                },
            )
            for command in commands
        ]
        try:
            yield
        finally:
            for process in processes:
                process.kill()
            for process in processes:
                process.wait()


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait_for(port: int, folder: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return
        time.sleep(0.1)
    pytest.fail(f"no answer on port {port}: {(folder / 'output.txt').read_text()[-2000:]}")
