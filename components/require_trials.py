"""The end of a sweep: it has failed if a trial has."""

from kfp import dsl

from components import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def require_trials(outcomes: list) -> None:
    """Fails, naming them, if trials have failed; all the rest has been done by now.

    Args:
        outcomes: Of each trial, as JSON.
    """
    import sys

    from sdpose.training.trial import TrialOutcome

    failed = [o for o in map(TrialOutcome.from_json, outcomes) if o.status == "failed"]
    if failed:
        names = "\n".join(f"  {o.name}: {o.message}" for o in failed)
        sys.exit(
            f"{len(failed)} of {len(outcomes)} trials failed; the others are ranked. Submit the "
            f"sweep again to run only those:\n{names}"
        )
