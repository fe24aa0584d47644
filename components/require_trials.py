"""The end of a sweep: it has failed if a trial has."""

from kfp import dsl

from components import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def require_trials(outcomes: list, dataset_digest: str) -> None:
    """Fails, naming them, if trials have failed; all the rest has been done by now.

    Args:
        outcomes: Of each trial, as JSON.
        dataset_digest: Of the dataset that was checked; a training on other data has failed.
    """
    import sys

    from sdpose.sweeps.trial import outcomes_on

    failed = [o for o in outcomes_on(outcomes, dataset_digest) if o.status == "failed"]
    if failed:
        names = "\n".join(f"  {o.name}: {o.message}" for o in failed)
        sys.exit(
            f"{len(failed)} of {len(outcomes)} trials failed; the others are ranked. Submit the "
            f"sweep again to run only those:\n{names}"
        )
