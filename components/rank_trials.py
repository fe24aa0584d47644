"""The ranked table of a sweep, and its winner."""

from typing import NamedTuple

from kfp import dsl

from components import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def rank_trials(
    sweep: str,
    trials: list,
    outcomes: list,
    dataset_digest: str,
    parent_run_id: str,
    checkpoint: dsl.Output[dsl.Model],
    table: dsl.Output[dsl.Markdown],
    report: dsl.Output[dsl.HTML],
) -> NamedTuple(  # type: ignore[valid-type]
    "Ranked", [("experiment", str), ("mlflow_run_id", str), ("checkpoint_sha256", str)]
):
    """Ranks the settings by their mean AP over seeds. Fails if no trial ran to its end.

    Args:
        sweep: Its name.
        trials: Of each, its name as `trial`, its settings (JSON) and its experiment.
        outcomes: Of each trial, as JSON, in any order.
        dataset_digest: Of the dataset that was checked.
        parent_run_id: MLflow's run of the sweep; empty if it is not tracked.
        checkpoint: The winner's best checkpoint, in a folder under its own name.
        table: The ranking.
        report: The ranking as a page, with the curves of all trials.

    Returns:
        experiment: The winner's.
        mlflow_run_id: The winner's.
        checkpoint_sha256: Of the winner's checkpoint.
    """
    from pathlib import Path

    from sdpose.errors import user_errors
    from sdpose.sweeps.finish import close_sweep

    with user_errors():
        result = close_sweep(
            sweep,
            trials,
            outcomes,
            dataset_digest=dataset_digest,
            parent_run_id=parent_run_id,
            table=Path(table.path),
            report=Path(report.path),
            checkpoint_folder=Path(checkpoint.path),
        )
    checkpoint.metadata.update(result.metadata | {"dataset_digest": dataset_digest})
    return (result.experiment, result.mlflow_run_id, result.checkpoint_sha256)
