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
    from pathlib import Path

    from sdpose.code_version import git_commit
    from sdpose.config import parse_experiment
    from sdpose.errors import user_errors
    from sdpose.files import sha256_of_file
    from sdpose.runner.finished import require_data
    from sdpose.runner.launch import train_on_this_machine
    from sdpose.training.checkpoint import same_file

    with user_errors():
        trained = train_on_this_machine(parse_experiment(experiment), overwrite=overwrite)
        require_data(trained, dataset_digest)
        best = trained.best_checkpoint or trained.last_checkpoint
        folder = Path(checkpoint.path)
        folder.mkdir(parents=True)
        same_file(best, folder / best.name)
    checkpoint.metadata.update(trained.best_metrics)
    checkpoint.metadata.update(file=best.name, work_dir_path=str(best.absolute()))
    checkpoint.metadata.update(dataset_digest=dataset_digest, git_commit=git_commit())
    return (trained.mlflow_run_id or "", sha256_of_file(best))
