"""Registering and pulling beside plain boto3 transfers of the same bytes, and `list`.

    python benchmarks/registry.py [--store s3://BUCKET/PREFIX | --server moto|swift]
        [--exp sdpose_b] [--megabytes 256] [--repeats 5] [--versions 10000] [--json out.json]

--store: a real endpoint, configured as for `sdpose registry`; what is written there is removed.
Otherwise a server of the tests is started here, and shares the cores with its client: then the
numbers compare, and say nothing of S3.

`register` and `pull` move a checkpoint of the experiment; `put_file` and `get_file`, below them, a
file of random bytes. All take turns with boto3's `upload_file` and `download_file` (its defaults);
medians. `register` and `put_file` are compared with boto3's upload: nothing is read back where the
server vouches for what arrived, as both servers of the tests do. `list` is the command, its start
included: with the index that registrations keep, and after its loss, when it reads every manifest.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3
import torch
from machine import machine, show

from sdpose.config import dump_experiment, load_experiment
from sdpose.errors import user_errors
from sdpose.files import sha256_of_file
from sdpose.models import build_model
from sdpose.registry import pull
from sdpose.registry.documents import digest_of, document, sealed
from sdpose.registry.layout import index_key, manifest_key
from sdpose.registry.register import register_checkpoint
from sdpose.storage import Store, open_store

T = TypeVar("T")


def main() -> None:
    args = _arguments()
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    with tempfile.TemporaryDirectory() as name, _place(args, Path(name)) as uri:
        rows = _transfers(uri, Path(name), args)
        listings = [row for root in (uri, f"{name}/registry") for row in _listings(root, args)]
    report = {"settings": vars(args) | {"json": None}, "transfers": rows, "listings": listings}
    report["machine"] = machine()
    show(f"Transfers, {args.store or args.server}", rows, report, None)
    show(f"`sdpose registry list`, {args.versions:,} versions", listings, report, args.json)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--store", metavar="s3://BUCKET/PREFIX")
    parser.add_argument("--server", choices=["moto", "swift"], default="moto")
    parser.add_argument("--exp", default="sdpose_b")
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--versions", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


@contextlib.contextmanager
def _place(args: argparse.Namespace, folder: Path) -> Iterator[str]:
    """A prefix of S3 for this run alone."""
    with contextlib.ExitStack() as stack:
        root = args.store
        if root is None:
            sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
            from servers import s3  # type: ignore[import-not-found]

            start = {"moto": s3.moto_server, "swift": s3.swift_server}[args.server]
            (folder / "server").mkdir()
            server = stack.enter_context(start(folder / "server"))
            os.environ |= server.environment() | {
                "SDPOSE_CACHE": str(folder / "cache"),
                # Swift has no conditional writes.
                "SDPOSE_S3_SINGLE_WRITER": "true" if args.server == "swift" else "false",
            }
            root = f"s3://{server.new_bucket()}"
        uri = f"{root.rstrip('/')}/benchmark-{uuid.uuid4().hex[:8]}"
        try:
            yield uri
        finally:
            _empty(uri)


def _transfers(uri: str, folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    store, parts = open_store(uri), urlsplit(uri)
    store.capabilities()  # is probed once a week
    bucket, plain = parts.netloc, f"{parts.path.strip('/')}/plain"
    client = boto3.client("s3")
    seconds: defaultdict[str, list[float]] = defaultdict(list)

    def timed(what: str, action: Callable[..., T], *arguments: Any) -> T:
        start = time.perf_counter()
        result = action(*arguments)
        seconds[what].append(time.perf_counter() - start)
        return result

    def both_ways(source: Path, name: str) -> None:
        timed(f"up {name}", client.upload_file, str(source), bucket, plain)
        timed(f"down {name}", client.download_file, bucket, plain, str(folder / "plain"))

    sizes: dict[str, int] = {}
    for turn in range(args.repeats):
        checkpoint = _checkpoint(folder, args.exp, seed=turn)
        timed("register weights", _register, store, checkpoint)
        pulled = folder / f"{turn}.safetensors"
        timed("pull weights", pull, store, f"model@{turn + 1}", pulled)
        both_ways(pulled, "weights")

        large, got = folder / "large", folder / "got"
        large.write_bytes(os.urandom(args.megabytes << 20))
        sha256 = sha256_of_file(large)
        timed("put_file file", store.put_file, large, "large", sha256)
        timed("get_file file", store.get_file, "large", got, sha256)
        both_ways(large, "file")
        sizes = {"weights": pulled.stat().st_size, "file": large.stat().st_size}
        _empty(uri, "blobs", "large", "plain")  # the servers of the tests keep all in memory
    took = {what: median(times) for what, times in seconds.items()}
    return [_row(what, took, sizes) for what in took]


def _row(what: str, took: dict[str, float], sizes: dict[str, int]) -> dict[str, Any]:
    """How what was done compares with boto3."""
    done, name = what.split()
    up, down = took[f"up {name}"], took[f"down {name}"]
    megabytes = sizes[name] / 1e6
    row = {"what": done, "MB": megabytes, "seconds": took[what], "MB/s": megabytes / took[what]}
    if done in ("up", "down"):
        return row | {"what": f"boto3 {done}load"}
    if done in ("register", "put_file"):
        return row | {"x boto3": up / took[what]}
    return row | {"x boto3": down / took[what]}


def _checkpoint(folder: Path, exp: str, seed: int) -> Path:
    torch.manual_seed(seed)
    experiment = load_experiment(exp)
    state = build_model(experiment.model).state_dict()
    meta = {"format": "sdpose/1", "epoch": 1, "experiment": dump_experiment(experiment)}
    path = folder / f"{exp}.pth"
    torch.save({"state_dict": state, "meta": meta}, path)
    return path


def _register(store: Store, checkpoint: Path) -> dict[str, Any]:
    experiment = load_experiment(checkpoint.stem)
    return register_checkpoint("model", checkpoint, experiment=experiment, root=store).manifest


def _listings(uri: str, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Of versions whose manifests are small changes of a registered one."""
    store = open_store(uri)
    with tempfile.TemporaryDirectory() as name:
        manifest = _register(store, _checkpoint(Path(name), args.exp, seed=0))
    there = manifest["version"]

    def add(number: int) -> None:
        changed = {key: manifest[key] for key in manifest if key != "sealed_sha256"}
        changed |= {"version": number, "identity": digest_of(number)}
        store.put(manifest_key("model", number), document(sealed(changed)))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(add, range(there + 1, args.versions + 1)))
    store.delete(index_key("model"))
    command = [sys.executable, "-m", "sdpose", "registry", "list", "model", "--json"]
    environment = os.environ | {"SDPOSE_REGISTRY": uri}
    for what in ("index lost", "index there"):
        start = time.perf_counter()
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
        seconds = time.perf_counter() - start
        assert done.stdout.count(b'"version"') == args.versions
        yield {"store": "S3" if "://" in uri else "folder", "what": what, "seconds": seconds}


def _empty(uri: str, *prefixes: str) -> None:
    store = open_store(uri)
    with ThreadPoolExecutor(16) as pool:
        for prefix in prefixes or ("",):
            keys = [prefix] if store.exists(prefix or "x") else list(store.list(prefix))
            list(pool.map(store.delete, keys))


if __name__ == "__main__":
    with user_errors():
        main()
