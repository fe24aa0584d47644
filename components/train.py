"""Step 2: training, on all GPUs of the machine that the step runs on."""

from typing import NamedTuple

from kfp import dsl

from components import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def train(
    experiment: str,
    dataset_digest: str,
    weights_digest: str,
    code_version: str,
    overwrite: bool,
    checkpoint: dsl.Output[dsl.Model],
) -> NamedTuple("Trained", [("mlflow_run_id", str), ("checkpoint_sha256", str)]):  # type: ignore[valid-type]
    """Trains, or continues where an interrupted training of the same experiment was.

    Args:
        experiment: The resolved experiment, as `sdpose config show` prints it.
        dataset_digest: Of the dataset that was checked; other data is other training.
        weights_digest: Of the weights that it starts from; other weights are other training.
        code_version: Of the code; other code is other training.
        overwrite: Remove what the work dir holds of another experiment.
        checkpoint: The checkpoint with the best AP, in a folder under its own name.

    Returns:
        mlflow_run_id: Empty if the experiment's log_config has no MLflow hook.
        checkpoint_sha256: Of the checkpoint's file.
    """
    from components.publish import publish_checkpoint
    from sdpose.config import parse_experiment
    from sdpose.errors import user_errors
    from sdpose.runner.launch import train_on_this_machine

    with user_errors():
        trained = train_on_this_machine(parse_experiment(experiment), overwrite=overwrite)
        return publish_checkpoint(checkpoint, trained, dataset_digest)
