"""The sweep's own run in MLflow, above those of its trials."""

from kfp import dsl

from components import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def open_sweep(sweep: str, experiment: str) -> str:
    """Finds or makes the MLflow run that the trials' runs are nested in.

    Args:
        sweep: Its name.
        experiment: Of one trial: says whether MLflow is wanted (log_config.hooks).

    Returns:
        The run's id; empty if the trials are not tracked in MLflow.
    """
    from sdpose.config import parse_experiment
    from sdpose.errors import user_errors
    from sdpose.training.trial import parent_run

    with user_errors():
        return parent_run(sweep, parse_experiment(experiment))
