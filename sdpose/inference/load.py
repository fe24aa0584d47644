"""From what a user calls a model to an estimator."""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path

import torch

from sdpose.config import Experiment, load_experiment, parse_experiment
from sdpose.errors import UserError
from sdpose.inference.estimator import PoseEstimator
from sdpose.inference.exported import SUFFIXES, open_exported
from sdpose.models import SDPose, load_model_with_report
from sdpose.models.transfer import check_skeleton, with_skeleton_of
from sdpose.models.weights import read_checkpoint
from sdpose.registry import registry_root
from sdpose.registry.gates import experiment_of
from sdpose.registry.pull import pull_version, resolve
from sdpose.registry.signatures import Verifier, verifier_of
from sdpose.storage import open_store

REGISTRY_SCHEME = "registry://"

logger = logging.getLogger(__name__)


def load(
    model: str | Path,
    *,
    exp: str | None = None,
    device: str | None = None,
    trust: bool = False,
    public_key: str | Path | None = None,
    allow_older: bool = False,
) -> PoseEstimator:
    """A model, ready for images: `sdpose.load("best_AP_epoch_50.pth")("photo.jpg", boxes)`.

    Args:
        model: a checkpoint of ours, a .safetensors file that `sdpose registry pull` brought (its
            manifest beside it), any other weights together with `exp`, an exported file (.onnx,
            .ts, .pt2), or `registry://MODEL/CHANNEL` (`registry://MODEL/VERSION`) of the registry
            in $SDPOSE_REGISTRY.
        exp: an experiment's name or file.
        device: default the GPU if there is one; exported files run on the CPU.
        trust: open a .pt2 or .ts file, which is a program and can run any code. All other formats
            hold data alone, and are read as such.
        public_key: of a registry:// model: version and pointer must be signed by its private key;
            default $SDPOSE_PUBLIC_KEY, else nothing is demanded.
        allow_older: take a signed pointer that is older than one that this machine has seen.
    Raises:
        UserError: there is no such model, its experiment is not known, or it is not trusted
            (SignatureError, OlderPointerError: by its signature).
    """
    path = Path(model)
    if not str(model).startswith(REGISTRY_SCHEME) and _is_exported(path):
        _refuse_signatures_of_files(str(model), public_key, allow_older)
        return _load_exported(path, exp, trust)
    network, experiment = load_network(
        model, exp=exp, public_key=public_key, allow_older=allow_older
    )
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return PoseEstimator(network.to(where).eval(), experiment, where)


def load_network(
    model: str | Path,
    *,
    exp: str | None = None,
    public_key: str | Path | None = None,
    allow_older: bool = False,
) -> tuple[SDPose, Experiment]:
    """The module and its experiment, of anything that `load` takes but an exported file."""
    name = str(model)
    if name.startswith(REGISTRY_SCHEME):
        verifier = verifier_of(public_key, allow_older=allow_older)
        return _from_registry(name, verifier)
    _refuse_signatures_of_files(name, public_key, allow_older)
    path = Path(name)
    if _is_exported(path):
        raise UserError(f"{path} is an exported file: give a checkpoint or a registry:// model")
    _, meta = read_checkpoint(path)
    manifest = path.with_name(path.name + ".json")
    if exp is not None:
        experiment = with_skeleton_of(load_experiment(exp), path, meta)
    elif "experiment" in meta:
        experiment = parse_experiment(meta["experiment"], source=name)
    elif manifest.is_file():
        experiment = _experiment_beside(manifest)
    else:
        raise UserError(f"{name} does not say which experiment it is of: give --exp NAME")
    return _load_model(experiment, path, name), experiment


def _load_model(experiment: Experiment, path: Path, name: str) -> SDPose:
    """Logs what was loaded, as a warning if that is not all."""
    model, report = load_model_with_report(experiment.model, path, experiment.keypoints, name=name)
    level = logging.INFO if report.is_complete else logging.WARNING
    logger.log(level, f"{name}: {report.summary()}")
    return model


def _refuse_signatures_of_files(
    name: str, public_key: str | Path | None, allow_older: bool
) -> None:
    """A key that nothing is compared with is a slip. $SDPOSE_PUBLIC_KEY is none: it is there for
    all commands."""
    if public_key is not None or allow_older:
        raise UserError(
            f"{name} is a file: signatures are of versions in a registry. Give "
            f"{REGISTRY_SCHEME}MODEL/CHANNEL, or leave the public key out"
        )


def _experiment_beside(manifest: Path) -> Experiment:
    """Of the manifest that `sdpose registry pull` has put beside the weights."""
    try:
        return parse_experiment(
            json.loads(manifest.read_bytes())["experiment"], source=str(manifest)
        )
    except UserError as error:
        reason = str(error)
    except OSError as error:
        reason = f"cannot read {manifest}: {error.strerror}"
    except (ValueError, KeyError, TypeError, RecursionError):
        reason = f"{manifest} is damaged: it is no manifest of a version"
    raise UserError(f"{reason}\npull the version again, or give --exp NAME")


def _from_registry(name: str, verifier: Verifier | None) -> tuple[SDPose, Experiment]:
    model_name, slash, which = name.removeprefix(REGISTRY_SCHEME).replace("@", "/").rpartition("/")
    if not slash:
        raise UserError(
            f"{name}: a channel or a version is missing, as in {name}/production or {name}/1 "
            "(sdpose registry list)"
        )
    store = open_store(registry_root())
    version = resolve(store, f"{model_name}@{which}", verifier=verifier)
    experiment = experiment_of(version)
    with tempfile.TemporaryDirectory(prefix="sdpose-load-") as folder:
        weights = Path(folder) / "weights.safetensors"
        pull_version(store, version, weights)
        return _load_model(experiment, weights, name), experiment


def _is_exported(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES.values()


def _load_exported(path: Path, exp: str | None, trust: bool) -> PoseEstimator:
    if not path.is_file():
        raise UserError(f"model not found: {path}")
    runtime, metadata = open_exported(path, trust=trust)
    if exp is not None:
        experiment = with_skeleton_of(load_experiment(exp), path, metadata)
        check_skeleton(path, metadata, experiment.keypoints)
    elif "experiment" in metadata:
        experiment = parse_experiment(metadata["experiment"], source=str(path))
    else:
        raise UserError(f"{path} was not written by `sdpose export`: give --exp NAME")
    runtime.num_keypoints = experiment.keypoints.num_keypoints
    return PoseEstimator(runtime, experiment, torch.device("cpu"))
