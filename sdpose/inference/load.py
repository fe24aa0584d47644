"""From what a user calls a model to an estimator."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch

from sdpose.config import Experiment, load_experiment, parse_experiment
from sdpose.errors import UserError
from sdpose.inference.estimator import PoseEstimator
from sdpose.inference.exported import SUFFIXES, open_exported
from sdpose.models import SDPose, load_model
from sdpose.models.weights import read_checkpoint
from sdpose.registry import pull, registry_root, resolve
from sdpose.registry.gates import experiment_of
from sdpose.storage import open_store

REGISTRY_SCHEME = "registry://"


def load(model: str | Path, *, exp: str | None = None, device: str | None = None) -> PoseEstimator:
    """A model, ready for images: `sdpose.load("best_AP_epoch_50.pth")("photo.jpg", boxes)`.

    model: a checkpoint of ours, a .safetensors file that `sdpose registry pull` brought (its
    manifest beside it), any other weights together with `exp` (an experiment's name or file), an
    exported file (.onnx, .ts, .pt2), or `registry://MODEL/CHANNEL` (`registry://MODEL/VERSION`) of
    the registry in $SDPOSE_REGISTRY. device: default the GPU if there is one; exported files run on
    the CPU. Raises UserError if there is no such model or its experiment is not known.
    """
    name = str(model)
    if Path(name).suffix in SUFFIXES.values():
        return _load_exported(Path(name), exp)
    network, experiment = load_network(model, exp=exp)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return PoseEstimator(network.to(where).eval(), experiment, where)


def load_network(model: str | Path, *, exp: str | None = None) -> tuple[SDPose, Experiment]:
    """The module and its experiment, of anything that `load` takes but an exported file."""
    name = str(model)
    if name.startswith(REGISTRY_SCHEME):
        return _from_registry(name)
    path = Path(name)
    if path.suffix in SUFFIXES.values():
        raise UserError(f"{path} is an exported file: give a checkpoint or a registry:// model")
    _, meta = read_checkpoint(path)
    manifest = path.with_name(path.name + ".json")
    if exp is not None:
        experiment = load_experiment(exp)
    elif "experiment" in meta:
        experiment = parse_experiment(meta["experiment"], source=name)
    elif manifest.is_file():
        content = json.loads(manifest.read_text(encoding="utf-8"))
        experiment = parse_experiment(content["experiment"], source=str(manifest))
    else:
        raise UserError(f"{name} does not say which experiment it is of: give --exp NAME")
    return load_model(experiment.model, path), experiment


def _from_registry(name: str) -> tuple[SDPose, Experiment]:
    model_name, slash, which = name.removeprefix(REGISTRY_SCHEME).rpartition("/")
    if not slash:
        raise UserError(
            f"{name}: expected {REGISTRY_SCHEME}MODEL/CHANNEL, as in ...s_v1/production"
        )
    store = open_store(registry_root())
    version = resolve(store, f"{model_name}@{which}")
    experiment = experiment_of(version)
    with tempfile.TemporaryDirectory(prefix="sdpose-load-") as folder:
        weights = Path(folder) / "weights.safetensors"
        pull(store, f"{model_name}@{version.version}", weights)
        return load_model(experiment.model, weights), experiment


def _load_exported(path: Path, exp: str | None) -> PoseEstimator:
    if not path.is_file():
        raise UserError(f"model not found: {path}")
    runtime, metadata = open_exported(path)
    if exp is not None:
        experiment = load_experiment(exp)
    elif "experiment" in metadata:
        experiment = parse_experiment(metadata["experiment"], source=str(path))
    else:
        raise UserError(f"{path} was not written by `sdpose export`: give --exp NAME")
    return PoseEstimator(runtime, experiment, torch.device("cpu"))
