"""Step 5, on demand: a channel of the registry gets the new version, if its gates agree."""

from typing import NamedTuple

from kfp import dsl

from components import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def promote(
    experiment: str,
    data_source: str,
    model_version: int,
    channel: str,
    approver: str,
    decision: dsl.Output[dsl.Markdown],
) -> NamedTuple("Promoted", [("allowed", bool)]):  # type: ignore[valid-type]
    """Promotes a version, or records why not; a refusal does not fail the run.

    Args:
        experiment: The resolved experiment, as `sdpose config show` prints it.
        data_source: Where the dataset is brought from, if the channel's present version has to be
            evaluated on it; empty if it lies in data_root.
        model_version: The number of the version in the registry.
        channel: "candidate", "staging" or "production".
        approver: Who wants it there; recorded.
        decision: The verdict of every gate.

    Returns:
        allowed: Whether the channel has the version now.
    """
    from pathlib import Path

    from sdpose.config import parse_experiment
    from sdpose.errors import user_errors
    from sdpose.printable import printable
    from sdpose.registry.promote import explain, promote_run

    with user_errors():
        record = promote_run(
            parse_experiment(experiment),
            model_version,
            channel,
            approver=approver,
            data_source=data_source,
        )
    Path(decision.path).write_text(f"```\n{explain(record)}\n```\n", encoding="utf-8")
    print(printable(explain(record)))
    return (record["allowed"],)
