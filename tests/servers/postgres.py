"""A PostgreSQL server of its own, from Debian's package (`apt-get install postgresql`).

It refuses to run as root; root's becomes the package's user `postgres`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.s3 import DIE_WITH_PARENT, free_ports, wait_for

SETTINGS = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "shared_buffers=32MB")


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URI of its database `postgres`, for SQLAlchemy with psycopg 3."""
    with postgres_server() as uri:
        yield uri


@contextlib.contextmanager
def postgres_server() -> Iterator[str]:
    programs = _programs()
    user = "postgres" if os.getuid() == 0 else None
    # Not below pytest's folders: another user cannot pass through them.
    folder = Path(tempfile.mkdtemp(prefix="sdpose-postgres-"))
    try:
        if user:
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        data, (port,) = folder / "data", free_ports(1)
        initdb = [
            programs / "initdb",
            "--no-sync",
            "--encoding=UTF8",
            "--auth=trust",
            "--username=sdpose",
            "-D",
            data,
        ]
        subprocess.run(
            initdb, check=True, capture_output=True, timeout=300, user=user, cwd=folder, env={}
        )
        options = [word for setting in SETTINGS for word in ("-c", setting)]
        command = [programs / "postgres", "-D", data, "-k", folder, "-h", "127.0.0.1"]
        with (folder / "output.txt").open("wb") as output:
            process = subprocess.Popen(
                [*DIE_WITH_PARENT, *map(str, [*command, "-p", port, *options])],
                stdout=output,
                stderr=output,
                user=user,
                cwd=folder,
                env={},
            )
        try:
            wait_for(port, folder)
            yield f"postgresql+psycopg://sdpose@127.0.0.1:{port}/postgres"
        finally:
            process.send_signal(signal.SIGQUIT)  # its children go with it
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if found:
        return found[-1].parent
    if path := shutil.which("postgres"):
        return Path(path).resolve().parent
    message = "PostgreSQL is not installed: apt-get install postgresql"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)
