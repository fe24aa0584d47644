"""One trial of a sweep: training, on the GPUs of this machine that it was given."""

from kfp import dsl

from components import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def trial(sweep: str, name: str, experiment: str, overwrite: bool) -> str:
    """Trains, or continues, or finds that it has been trained. A failure is an outcome: other
    trials go on, and the sweep's last step tells of it.

    Args:
        sweep: Its name; MLflow shows the trial's run within the sweep's.
        name: The experiment's name, for people.
        experiment: As `dump_experiment` writes it, defaults left out.
        overwrite: Remove what the work dir holds first.

    Returns:
        The outcome, as JSON (sdpose.sweeps.trial.TrialOutcome).
    """
    from sdpose.config import parse_experiment
    from sdpose.errors import user_errors
    from sdpose.sweeps.trial import run_trial_here

    with user_errors():
        outcome = run_trial_here(sweep, parse_experiment(experiment), overwrite=overwrite)
    return outcome.to_json()
