"""The gates that a version must pass before a channel points at it.

Their thresholds are the section `promotion` of the experiment, as registered or as it is now.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from sdpose.config import Experiment, parse_experiment
from sdpose.config.schema import Promotion
from sdpose.errors import UserError
from sdpose.registry.channels import Record
from sdpose.registry.documents import digest_of, figure
from sdpose.registry.layout import blob_key
from sdpose.registry.versions import ModelVersion, read_version
from sdpose.storage import DamagedObjectError, Store

if TYPE_CHECKING:
    from sdpose.models import SDPose

Verdict = dict[str, Any]
LATENCY_RUNS, LATENCY_WARM_UP = 20, 3


def experiment_of(version: ModelVersion) -> Experiment:
    return parse_experiment(version.manifest["experiment"], source=version.manifest_uri)


def gates_for(
    store: Store,
    version: ModelVersion,
    *,
    rules: Promotion | None = None,
    data_root: str | None = None,
    data_source: str = "",
) -> Callable[[Record | None], list[Verdict]]:
    """The gates for `channels.set_channel`. What depends on the version alone is measured once.

    Args:
        rules: default: those of the experiment that the version was registered with.
        data_root: the dataset, if the present version must be evaluated on it again; default: the
            experiment's.
        data_source: fetches the dataset from there first (`sdpose.tools.coco_fetch.fetch`).
    Returns:
        A function of the channel's present record that returns {gate, passed, reason} each.
    """
    rules = rules or experiment_of(version).promotion
    ap = figure(version.manifest["metrics"])
    with tempfile.TemporaryDirectory(prefix="sdpose-gates-") as folder:
        weights = Path(folder) / "weights.safetensors"
        store.get_file(blob_key(version.sha256), weights, version.sha256)
        verdicts, model = _checks(version, weights)
        if rules.max_latency_ms is not None and model is not None:
            verdicts.append(_latency(model, version, rules.max_latency_ms))
    if rules.max_size_mb is not None:
        size = version.manifest["weights"]["size"] / 1e6
        verdicts.append(
            _verdict("size", size <= rules.max_size_mb, f"{size:.1f} MB of {rules.max_size_mb}")
        )
    if ap is None:
        verdicts.append(_verdict("scored", False, "no AP was registered"))
    elif rules.min_ap is not None:
        reason = f"AP {ap:.4f}, at least {rules.min_ap}"
        verdicts.append(_verdict("min_ap", ap >= rules.min_ap, reason))

    again = functools.partial(_evaluate_again, store, version, data_root, data_source)

    def gates(present: Record | None) -> list[Verdict]:
        if present is None or ap is None:
            return verdicts
        try:
            champion = read_version(store, version.model_name, present["version"])
        except DamagedObjectError as error:
            # A damaged version can be neither run nor pulled: it must be possible to replace it.
            return [
                *verdicts,
                _verdict("better", True, f"there is nothing to compare with: {error}"),
            ]
        return [*verdicts, _better(version, ap, champion, rules.margin, again)]

    return gates


def _verdict(gate: str, passed: bool, reason: str, **measured: Any) -> Verdict:
    return {"gate": gate, "passed": bool(passed), "reason": reason, **measured}


def _checks(version: ModelVersion, weights: Path) -> tuple[list[Verdict], SDPose | None]:
    """Checks that the weights load and are finite, and that the output depends on the image."""
    import torch

    from sdpose.models import load_model

    experiment = experiment_of(version)
    try:
        model = load_model(experiment.model, weights, experiment.keypoints).eval()
    except UserError as error:
        return [_verdict("loads", False, str(error).splitlines()[0])], None
    infinite = [
        name
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point() and not tensor.isfinite().all()
    ]
    if infinite:
        reason = f"{len(infinite)} tensors are not finite: {', '.join(infinite[:3])}"
        return [_verdict("finite", False, reason)], None
    images = torch.randn(2, *version.manifest["model"]["input"]["shape"][1:], generator=_fixed())
    with torch.inference_mode():
        heatmaps = model.predict(images)
    wanted = [2, *version.manifest["model"]["output"]["shape"][1:]]
    sane = list(heatmaps.shape) == wanted and bool(heatmaps.isfinite().all())
    differ = sane and not torch.equal(heatmaps[0], heatmaps[1])
    return [
        _verdict("finite", True, "all weights are finite"),
        _verdict("runs", sane, f"heatmaps {list(heatmaps.shape)}, finite: {sane}"),
        _verdict("sees", differ, "heatmaps depend on the image" if differ else "always the same"),
    ], model if sane else None


def _fixed() -> Any:
    import torch

    return torch.Generator().manual_seed(0)


def _latency(model: SDPose, version: ModelVersion, limit_ms: float) -> Verdict:
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    image = torch.randn(1, *version.manifest["model"]["input"]["shape"][1:], generator=_fixed())
    model, image, times = model.to(device), image.to(device), []
    with torch.inference_mode():
        for _ in range(LATENCY_WARM_UP + LATENCY_RUNS):
            started = time.perf_counter()
            model.predict(image).cpu()  # waits for the device
            times.append(1000 * (time.perf_counter() - started))
    milliseconds = median(times[LATENCY_WARM_UP:])
    machine = f"{where}, {torch.get_num_threads()} threads, batch 1, float32"
    return _verdict(
        "latency",
        milliseconds <= limit_ms,
        f"{milliseconds:.1f} ms of {limit_ms} ({machine})",
        milliseconds=round(milliseconds, 3),
        machine=machine,
    )


def _better(
    version: ModelVersion,
    ap: float,
    champion: ModelVersion,
    margin: float,
    evaluate_again: Callable[[ModelVersion], float | None],
) -> Verdict:
    """Checks that its AP is better than the present version's, on the same data and settings.

    It always is if the present version has no AP.
    """
    same = all(
        champion.manifest[key] == version.manifest[key]
        for key in ("dataset_digest", "evaluation_settings_digest")
    )
    present = registered = figure(champion.manifest["metrics"])
    how = "as registered"
    if not same or registered is None:
        try:
            present, how = evaluate_again(champion), "evaluated again"
        except UserError as error:
            if registered is None:
                why = f"could not be evaluated: {' '.join(str(error).split())}"
                return _verdict("better", True, f"version {champion.version} has no AP, and {why}")
            return _verdict(
                "better",
                False,
                f"version {champion.version} was evaluated on other data or in another way, and "
                f"could not be evaluated again: {' '.join(str(error).split())}",
            )
    if present is None:
        return _verdict("better", True, f"version {champion.version} has no AP ({how})")
    return _verdict(
        "better",
        ap - present >= margin,
        f"AP {ap:.4f}, version {champion.version} has {present:.4f} ({how}), margin {margin}",
        present_ap=present,
    )


def _evaluate_again(
    store: Store,
    version: ModelVersion,
    data_root: str | None,
    data_source: str,
    champion: ModelVersion,
) -> float | None:
    """The present version's AP with the data and settings of the new one; None if it has none.

    Raises:
        UserError: that dataset is not here, or the models need different crops or settings.
    """
    import torch

    from sdpose.evaluation import evaluate
    from sdpose.models import load_model
    from sdpose.prepare.dataset import prepare_coco, unusable_images
    from sdpose.tools.coco_fetch.fetch import fetch_coco

    ours, theirs = experiment_of(version), experiment_of(champion)
    if ours.data_cfg.image_size != theirs.data_cfg.image_size:
        raise UserError("the two models see crops of different sizes")
    if ours.keypoints.keypoints != theirs.keypoints.keypoints:
        raise UserError(
            "the two models predict different keypoints: "
            f"{', '.join(ours.keypoints.keypoints)} and {', '.join(theirs.keypoints.keypoints)}"
        )
    model_section = theirs.model.model_copy(update={"test_cfg": ours.model.test_cfg})
    experiment = ours.model_copy(
        update={"data_root": data_root or ours.data_root, "model": model_section}
    )
    if data_source:
        fetch_coco(data_source, Path(experiment.data_root))
    digest = prepare_coco(experiment, with_pack=False).digest
    if digest != version.manifest["dataset_digest"]:
        raise UserError(
            f"the dataset in {experiment.data_root} has the digest {digest[:12]}, version "
            f"{version.version} was evaluated on {version.manifest['dataset_digest'][:12]}; "
            "give --data-root"
        )
    with tempfile.TemporaryDirectory(prefix="sdpose-champion-") as folder:
        weights = Path(folder) / "weights.safetensors"
        store.get_file(blob_key(champion.sha256), weights, champion.sha256)
        model = load_model(theirs.model, weights, theirs.keypoints)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    gt = version.manifest["evaluation_settings"].get("bbox_source") == "ground truth"
    skipped = unusable_images(experiment, "val")
    result = evaluate(
        model.to(device), experiment, device=device, skip_images=skipped, use_gt_bbox=gt
    )
    if digest_of(result.settings) != version.manifest["evaluation_settings_digest"]:
        differing = sorted(
            key
            for key in result.settings
            if result.settings[key] != version.manifest["evaluation_settings"].get(key)
        )
        raise UserError(f"its evaluation settings differ in {', '.join(differing)}")
    return figure(result.metrics)
