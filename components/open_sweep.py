"""The sweep's own run in MLflow, above those of its trials."""

from kfp import dsl

from components import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def open_sweep(sweep: str, experiment: str, overwrite: bool) -> str:
    """Finds or makes the MLflow run that the trials' runs are nested in.

    With overwrite, what the trials have recorded for early stopping is removed: it belongs to
    trainings that are removed, too.

    Args:
        sweep: Its name.
        experiment: Of one trial: says whether MLflow is wanted (log_config.hooks), and where the
            trials meet for early stopping.
        overwrite: All trials are trained again.

    Returns:
        The run's id; empty if the trials are not tracked in MLflow.
    """
    from sdpose.config import parse_experiment
    from sdpose.errors import user_errors
    from sdpose.runner.early_stopping import remove_records
    from sdpose.sweeps.trial import parent_run

    with user_errors():
        resolved = parse_experiment(experiment)
        if overwrite:
            remove_records(resolved)
        return parent_run(sweep, resolved)
