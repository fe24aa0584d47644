"""What is done to a registry while networks fail and processes die, and what must hold afterwards.

The registry has two versions of `tiny`, the first one in production.

    register   makes version 3
    promote    puts version 2 into production
    pull       replaces a file `model.safetensors` with other bytes by what is in production
"""

from __future__ import annotations

import os
import signal
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from made import write_checkpoint

from sdpose import retry
from sdpose.config import parse_experiment
from sdpose.files import sha256_of_file
from sdpose.registry import channels, pull, resolve, summarize
from sdpose.registry.promote import promote
from sdpose.registry.register import register_checkpoint
from sdpose.registry.verify import verify
from sdpose.storage import Store, open_store, s3_store

OPERATIONS = ("register", "promote", "pull")
OLD = b"what the device had before"
PART_BYTES = 1 << 20  # the weights have 5 MB


@contextmanager
def small_parts_and_pauses() -> Iterator[None]:
    before = s3_store.PART_BYTES, s3_store.SEGMENT_BYTES, retry.FIRST_PAUSE_S
    s3_store.PART_BYTES, s3_store.SEGMENT_BYTES, retry.FIRST_PAUSE_S = PART_BYTES, PART_BYTES, 0.01
    try:
        yield
    finally:
        s3_store.PART_BYTES, s3_store.SEGMENT_BYTES, retry.FIRST_PAUSE_S = before


@dataclass(frozen=True)
class Client:
    """Somebody who uses the registry at `uri`, with files of its own."""

    uri: str
    folder: Path
    checkpoints: Path

    @cached_property
    def store(self) -> Store:
        return open_store(self.uri)

    def register(self, seed: int) -> None:
        checkpoint = self.checkpoints / f"{seed}.pth"
        import torch

        meta = torch.load(checkpoint, weights_only=True)["meta"]
        register_checkpoint(
            "tiny",
            checkpoint,
            experiment=parse_experiment(meta["experiment"], source=str(checkpoint)),
            metrics={"AP": seed / 10},
            git_commit="abc",
            root=self.store,
        )

    def promote(self, version: int) -> None:
        record = promote(self.store, "tiny", version, "production", approver="kim")
        assert record["allowed"]

    def run(self, operation: str) -> None:
        if operation == "register":
            self.register(3)
        elif operation == "promote":
            self.promote(2)
        else:
            pull(self.store, "tiny@production", self.folder / "model.safetensors")

    def is_done(self, operation: str) -> bool:
        """Whether the operation has happened, as a whole. Fails if it has happened in part, twice,
        or left something damaged."""
        problems = verify(self.store)
        assert not problems, problems
        versions = [summary["version"] for summary in summarize(self.store, "tiny")]
        moves = [
            (record["generation"], record["version"])
            for record in channels.history(self.store, "tiny", "production")
        ]
        if operation == "register":
            assert versions in ([1, 2], [1, 2, 3])
            assert moves == [(1, 1)]
            return len(versions) == 3
        assert versions == [1, 2]
        if operation == "promote":
            assert moves in ([(1, 1)], [(1, 1), (2, 2)])
            return len(moves) == 2
        assert moves == [(1, 1)]
        return self._has_pulled()

    def _has_pulled(self) -> bool:
        weights = self.folder / "model.safetensors"
        manifest = weights.with_name("model.safetensors.json")
        if weights.read_bytes() == OLD:
            assert not manifest.exists()
            return False
        version = resolve(self.store, "tiny@production")
        assert sha256_of_file(weights) == version.sha256
        # Two files cannot be replaced at once: the manifest comes last.
        return manifest.exists() and sha256_of_file(manifest) == version.manifest_sha256


def new_folder(below: Path) -> Path:
    folder = below / uuid.uuid4().hex / "device"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(OLD)
    return folder


def make_checkpoints(folder: Path, experiment: object) -> Path:
    for seed in (1, 2, 3):
        write_checkpoint(folder / f"{seed}.pth", experiment, seed)  # type: ignore[arg-type]
    return folder


def make_registry(client: Client) -> None:
    client.register(1)
    client.register(2)
    client.promote(1)


def run_in_child(
    operation: str, client: Client, environment: dict[str, str], kill_at: int | None
) -> None:
    """For a process of its own. kill_at: kills itself before it changes a file of the registry or
    of the client for the n-th time; the number of changes is written to `<folder>.changes`."""
    os.environ |= environment
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    changes = 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal changes
        if not _changes_a_file(event, arguments):
            return
        if any(str(client.folder.parent) in str(argument) for argument in arguments):
            changes += 1
            if changes == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    if kill_at is not None:
        sys.addaudithook(watch)
    with small_parts_and_pauses():
        client.run(operation)
    done, changes = changes, -(1 << 30)
    client.folder.with_suffix(".changes").write_text(str(done))


def _changes_a_file(event: str, arguments: tuple[object, ...]) -> bool:
    if event == "open":
        return bool(int(arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))  # type: ignore
    return event in ("os.rename", "os.link", "os.remove", "os.mkdir", "os.truncate", "os.chmod")
