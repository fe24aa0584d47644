"""Step 2 on several nodes: a PyTorchJob (or TrainJob) trains, this step watches over it."""

from typing import NamedTuple

from kfp import dsl

from components import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def train_on_cluster(
    experiment: str,
    dataset_digest: str,
    weights_digest: str,
    code_version: str,
    cluster: str,
    overwrite: bool,
    checkpoint: dsl.Output[dsl.Model],
    log: dsl.Output[dsl.Artifact],
) -> NamedTuple("Trained", [("mlflow_run_id", str), ("checkpoint_sha256", str)]):  # type: ignore[valid-type]
    """Starts the training job, or finds the one that it started before, and stays until it ends.

    Fails with the pod, its exit code and its last lines if the job fails; ends the job if this step
    is ended. The same pipeline run ($SDPOSE_RUN_ID) and experiment have one job. The run's id is no
    parameter: it would be part of KFP's cache key, and nothing would ever be found there.

    Args:
        experiment: The resolved experiment, as `sdpose config show` prints it.
        dataset_digest: Of the dataset that was checked; other data is other training.
        weights_digest: Of the weights that it starts from; other weights are other training.
        code_version: Of the code; other code is other training.
        cluster: The cluster profile as JSON (components.profile.dump_cluster).
        overwrite: Remove what the work dir holds of another experiment, before the job starts.
        checkpoint: The checkpoint with the best AP, in a folder under its own name.
        log: The output of all pods, each line with its pod.

    Returns:
        mlflow_run_id: Empty if the experiment's log_config has no MLflow hook.
        checkpoint_sha256: Of the checkpoint's file.
    """
    import os
    from pathlib import Path

    from components.launcher.launch import train_on_cluster as run_job
    from components.profile import parse_cluster
    from sdpose.config import parse_experiment
    from sdpose.errors import user_errors

    with user_errors():
        trained = run_job(
            parse_experiment(experiment),
            parse_cluster(cluster),
            run_id=os.environ["SDPOSE_RUN_ID"],
            overwrite=overwrite,
            log=Path(log.path),
        )

        from components.publish import publish_checkpoint  # loads PyTorch: not earlier

        return publish_checkpoint(checkpoint, trained, dataset_digest)
