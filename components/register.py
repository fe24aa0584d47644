"""Step 4: the evaluated checkpoint becomes a version of the model."""

from typing import NamedTuple

from kfp import dsl

from components import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def register(
    experiment: str,
    dataset_digest: str,
    checkpoint: dsl.Input[dsl.Model],
    results: dsl.Input[dsl.Artifact],
    mlflow_run_id: str,
    runner: str,
) -> NamedTuple("Registered", [("model_version", int), ("checkpoint_uri", str)]):  # type: ignore[valid-type]
    """Copies the checkpoint into the registry, verified, and writes the work dir's summary.json.

    Args:
        experiment: The resolved experiment, as `sdpose config show` prints it.
        dataset_digest: Of the dataset that the checkpoint was trained and evaluated on.
        checkpoint: The checkpoint that was evaluated.
        results: The folder that the evaluation wrote.
        mlflow_run_id: The training's run.
        runner: What runs the pipeline: "local" or "kfp".

    Returns:
        model_version: The number of the version in the registry.
        checkpoint_uri: The registry's copy of its weights (safetensors).
    """
    from pathlib import Path

    from sdpose.config import parse_experiment
    from sdpose.errors import user_errors
    from sdpose.registry.register_run import register_run

    with user_errors():
        version = register_run(
            parse_experiment(experiment),
            checkpoint=Path(checkpoint.path) / checkpoint.metadata["file"],
            trained_as=Path(checkpoint.metadata["work_dir_path"]),
            results=Path(results.path) / "results.json",
            dataset_digest=dataset_digest,
            mlflow_run_id=mlflow_run_id,
            runner=runner,
            git_commit=checkpoint.metadata["git_commit"],
        )
    return (version.version, version.weights_uri)
