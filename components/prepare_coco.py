"""Step 1: is the dataset whole, and which one is it? Its outputs are what later steps' cache keys
know of the files that they read."""

from typing import NamedTuple

from kfp import dsl

from components import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def prepare_coco(
    experiment: str,
    data_source: str,
) -> NamedTuple(  # type: ignore[valid-type]
    "Prepared", [("dataset_digest", str), ("bbox_source", str), ("weights_digest", str)]
):
    """Checks every file of the dataset; fails with the list of all problems.

    Args:
        experiment: The resolved experiment, as `sdpose config show` prints it.
        data_source: Where the dataset is brought from first; empty if it lies in data_root.

    Returns:
        dataset_digest: SHA-256 of annotations, detections and images.
        bbox_source: The boxes that are evaluated: "detections" or "ground truth".
        weights_digest: SHA-256 of the weights that training starts from; empty without any.
    """
    from pathlib import Path

    from sdpose.config import parse_experiment
    from sdpose.errors import user_errors
    from sdpose.pack_store import prepare_pack
    from sdpose.prepare import dataset as prepare
    from sdpose.printable import printable
    from sdpose.tools.coco_fetch.fetch import fetch_coco

    with user_errors():
        resolved = parse_experiment(experiment)
        if data_source:
            fetch_coco(data_source, Path(resolved.data_root))
        prepared = prepare.prepare_coco(resolved, pack_into=prepare_pack)
        print(printable(prepared.summary()))
        weights_digest = prepare.weights_digest(resolved)
    return (prepared.digest, prepared.bbox_source, weights_digest)
