"""Step 1: is the dataset whole, and which one is it?"""

from typing import NamedTuple

from kfp import dsl

from components import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def prepare_coco(
    experiment: str,
) -> NamedTuple("Prepared", [("dataset_digest", str), ("bbox_source", str)]):  # type: ignore[valid-type]
    """Checks every file of the dataset; fails with the list of all problems.

    Args:
        experiment: The resolved experiment, as `sdpose config show` prints it.

    Returns:
        dataset_digest: SHA-256 of annotations, detections and images.
        bbox_source: The boxes that are evaluated: "detections" or "ground truth".
    """
    from sdpose.config import parse_experiment
    from sdpose.data import prepare
    from sdpose.errors import user_errors

    with user_errors():
        prepared = prepare.prepare_coco(parse_experiment(experiment))
        print(prepared.summary())
    return (prepared.digest, prepared.bbox_source)
