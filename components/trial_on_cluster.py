"""One trial of a sweep as a training job of its own; this step watches over it."""

from kfp import dsl

from components import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def trial_on_cluster(
    sweep: str,
    name: str,
    experiment: str,
    cluster: str,
    overwrite: bool,
    log: dsl.Output[dsl.Artifact],
) -> str:
    """Trains in a PyTorchJob (or TrainJob), or finds that it has been trained: then there is no
    job. A failure is an outcome: other trials go on, and the sweep's last step tells of it.

    Args:
        sweep: Its name; MLflow shows the trial's run within the sweep's.
        name: The experiment's name, for people.
        experiment: As `dump_experiment` writes it, defaults left out.
        cluster: The cluster profile as JSON (components.profile.dump_cluster).
        overwrite: Remove what the work dir holds first.
        log: The output of all pods, each line with its pod.

    Returns:
        The outcome, as JSON (sdpose.sweeps.trial.TrialOutcome).
    """
    import os
    from pathlib import Path

    from components.launcher.launch import run_trial_in_job
    from components.profile import parse_cluster
    from sdpose.config import parse_experiment
    from sdpose.errors import user_errors

    with user_errors():
        outcome = run_trial_in_job(
            sweep,
            parse_experiment(experiment),
            parse_cluster(cluster),
            run_id=os.environ["SDPOSE_RUN_ID"],
            overwrite=overwrite,
            log=Path(log.path),
        )
    return outcome.to_json()
