"""Start a model from the weights of another skeleton: `load_from` across keypoints.

Only the keypoint tokens (and the rows of a learnable position embedding that belong to them) depend
on the skeleton; the backbone, the transformer and the head are shared by all keypoints. K tokens
come first, P vision tokens after them, D is the token width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from sdpose.config import Experiment
from sdpose.config.document import parse_document
from sdpose.config.keypoint_names import joints_of
from sdpose.config.schema import COCO, Skeleton
from sdpose.documents import parse_json, parse_yaml_value
from sdpose.errors import UserError
from sdpose.models.load_report import LoadReport
from sdpose.models.sdpose import SDPose
from sdpose.models.weights import apply_weights, read_checkpoint

TOKENS, POSITIONS = "keypoint_tokens", "position_embedding"
_MAX_MANIFEST_BYTES = 1 << 20
_SHOWN = 50


def transfer_weights(model: SDPose, path: str | Path, skeleton: Skeleton) -> LoadReport:
    """Load the weights of a file, whose model may have another skeleton.

    Keypoint tokens are copied for keypoints of equal names; those that the file lacks keep their
    initial values. All other tensors must fit, as in `load_weights`.

    Args:
        model: of `skeleton`; changed in place.
        path: as for `load_weights`.
    Returns:
        The report; its note names the keypoints that were copied, initialised and dropped.
    Raises:
        UserError: a tensor does not fit, or the file has another number of keypoints and does not
            say which.
    """
    state, meta = read_checkpoint(path)
    theirs = skeleton_of_weights(path, meta)
    count = _count_tokens(state)
    note = ""
    if theirs is None and count == COCO.num_keypoints:
        theirs = COCO  # the official files say nothing of it
        note = "the file does not say its keypoints, and is taken for COCO's\n"
    if theirs is None and count != skeleton.num_keypoints:
        raise UserError(
            f"{path} has {count} keypoint tokens and does not say for which keypoints; the "
            f"experiment's skeleton has {skeleton.num_keypoints}. Give a checkpoint of ours "
            "(.pth), or a .safetensors file with the manifest that `sdpose registry pull` puts "
            "beside it"
        )
    if theirs is None or theirs.keypoints == skeleton.keypoints:
        return apply_weights(model, path, state, meta)
    adapted = dict(state)
    for name in (TOKENS, POSITIONS):
        found, own = state.get(name), model.state_dict().get(name)
        if found is not None and own is not None and _depends_on_keypoints(name, model):
            adapted[name] = _rows(found, own, theirs, skeleton)
    report = apply_weights(model, path, adapted, meta)
    return replace(report, note=note + describe_transfer(theirs, skeleton))


def skeleton_of_weights(path: str | Path, meta: Mapping[str, Any]) -> Skeleton | None:
    """Return the skeleton of a file of weights with this `meta`; None: it does not say.

    It is in the experiment of our checkpoints, or in the manifest beside a pulled .safetensors
    file.

    Raises:
        UserError: the experiment is damaged.
    """
    experiment = meta.get("experiment")
    if experiment is None and Path(path).suffix == ".safetensors":
        experiment = _in_manifest(Path(f"{path}.json"))
    if isinstance(experiment, str):
        experiment = parse_yaml_value(experiment, str(path))
    if experiment is None:
        return None
    if not isinstance(experiment, dict):
        raise UserError(f"{path}: its experiment is damaged: expected keys, not one value")
    given = experiment.get("skeleton")  # experiments of before have none: COCO's
    if given is None:
        return COCO
    return parse_document(Skeleton, given, f"{path}: the skeleton of its experiment")


def _in_manifest(manifest: Path) -> Any:
    """The experiment of the manifest that `sdpose registry pull` puts beside weights, if any."""
    if not manifest.is_file():
        return None
    try:
        with manifest.open("rb") as file:
            text = file.read(_MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot read {manifest}: {error.strerror}") from None
    content = parse_json(text, str(manifest), _MAX_MANIFEST_BYTES)
    return content.get("experiment") if isinstance(content, dict) else None


def with_skeleton_of(
    experiment: Experiment, path: str | Path, meta: Mapping[str, Any]
) -> Experiment:
    """Return the experiment with the skeleton of weights where its own is `auto`.

    The training read it from its file; where the weights are used, that file may be away.

    Args:
        path: of the weights, with this `meta`.
    Returns:
        The same experiment if its skeleton is known, or if the weights do not say theirs.
    """
    if experiment.skeleton is not None:
        return experiment
    return experiment.model_copy(update={"skeleton": skeleton_of_weights(path, meta)})


def check_skeleton(path: str | Path, meta: Mapping[str, Any], skeleton: Skeleton) -> None:
    """Check that a file of weights with this `meta` is of a skeleton, if it says so.

    Raises:
        UserError: they are of other keypoints, or of these in another order; both are named.
    """
    theirs = skeleton_of_weights(path, meta)
    if theirs is not None and joints_of(theirs.keypoints) != joints_of(skeleton.keypoints):
        raise UserError(
            f"{path} is of another skeleton than the experiment:\n"
            f"    its keypoints:    {_names(theirs.keypoints)}\n"
            f"    the experiment's: {_names(skeleton.keypoints)}\n"
            "give the experiment of the file, or start a training from its weights with load_from, "
            "which copies what both have"
        )


def describe_transfer(theirs: Skeleton, ours: Skeleton) -> str:
    """Say which keypoints a model of `ours` takes from one of `theirs`, which not."""
    rows = _rows_of(theirs, ours)
    parts = {
        "copied": [name for name in ours.keypoints if name in rows],
        "initialised": [name for name in ours.keypoints if name not in rows],
        "dropped": [n for row, n in enumerate(theirs.keypoints) if row not in rows.values()],
    }
    lines = [f"  {verb}: {_names(names)}" for verb, names in parts.items()]
    return "\n".join(
        [
            f"the file's skeleton has {theirs.num_keypoints} keypoints, the experiment's "
            f"{ours.num_keypoints}; their tokens:",
            *lines,
        ]
    )


def _rows_of(theirs: Skeleton, ours: Skeleton) -> dict[str, int]:
    """The row in the file of each of our keypoints that it has, in whatever spelling."""
    exact = {name: row for row, name in enumerate(theirs.keypoints)}
    spelled = dict(zip(joints_of(theirs.keypoints), exact.values(), strict=True)) | exact
    joints = zip(ours.keypoints, joints_of(ours.keypoints), strict=True)
    rows = {name: spelled.get(name, spelled.get(joint)) for name, joint in joints}
    return {name: row for name, row in rows.items() if row is not None}


def _names(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > _SHOWN else ""
    return f"{len(names)} ({', '.join(names[:_SHOWN])}{more})" if names else "none"


def _count_tokens(state: Mapping[str, Tensor]) -> int | None:
    tokens = state.get(TOKENS)
    return tokens.shape[1] if tokens is not None and tokens.ndim == 3 else None


def _depends_on_keypoints(name: str, model: SDPose) -> bool:
    return name == TOKENS or model.pos_embedding_type == "learnable"


def _rows(found: Tensor, own: Tensor, theirs: Skeleton, ours: Skeleton) -> Tensor:
    """`own` [1, K (+ P), D] with the file's rows of equal keypoints and of all vision tokens."""
    vision = own.shape[1] - ours.num_keypoints
    fits = (found.ndim, found.shape[1:]) == (3, (theirs.num_keypoints + vision, own.shape[2]))
    if not fits:
        return found  # the usual comparison names it
    result = own.detach().clone()
    rows = _rows_of(theirs, ours)
    for row, name in enumerate(ours.keypoints):
        if name in rows:
            result[:, row] = found[:, rows[name]]
    if vision:
        result[:, ours.num_keypoints :] = found[:, theirs.num_keypoints :]
    return result
