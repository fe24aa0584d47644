"""The DAG of a sweep: (preflight ->) prepare_coco -> trials, some at a time -> ranking -> evaluate
and register the winner -> a check that none has failed."""

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.open_sweep import open_sweep
from components.profile import Cluster
from components.rank_trials import rank_trials
from components.require_trials import require_trials
from components.trial import trial
from components.trial_on_cluster import trial_on_cluster
from pipelines.cluster.step_pods import configure_pod
from pipelines.sdpose_pipeline import evaluate_and_register, prepare

NAME = "sdpose-sweep"


def make_sweep_pipeline(
    cluster: Cluster | None = None,
    *,
    parallel: int,
    overwrite: bool = False,
    check: bool = True,
) -> BaseComponent:
    """The pipeline for a cluster, or (None) for this machine.

    Trials are not cached by KFP, which would keep failures, too: each knows from its work dir what
    is left to do. A trial's step never fails, because Argo starts no further iteration then.

    Args:
        parallel: trials that train at the same time.
        overwrite: train all again from the start.
        check: on a cluster, the preflight comes first.
    """

    @dsl.pipeline(
        name=NAME,
        description="Trains many SDPose experiments, ranks them, registers the best",
    )
    def sdpose_sweep(
        sweep: str,
        experiment: str,
        trials: list,
        code_version: str = "",
        cluster_profile: str = "",
        runner: str = "kfp",
    ) -> None:
        """Runs the trials of one sweep.

        Args:
            sweep: Its name.
            experiment: The first trial's, whose dataset is checked for all.
            trials: Of each, its name as `trial`, its settings (JSON) and its experiment.
            code_version: What computes (`sdpose.code_version`).
            cluster_profile: As JSON (components.profile.dump_cluster); empty on this machine.
            runner: What runs the pipeline, for the summary.
        """
        prepared = prepare(experiment, cluster, cluster_profile, code_version, check=check)
        dataset_digest = prepared.outputs["dataset_digest"]
        opened = open_sweep(sweep=sweep, experiment=experiment, overwrite=overwrite)
        opened.after(prepared)
        with dsl.ParallelFor(items=trials, parallelism=parallel) as each:
            # No output of a step above: kfp.local gives a loop's steps the item in its place. And
            # `each.name` would be the name of the channel.
            given = {
                "sweep": sweep,
                "name": each.trial,
                "experiment": each.experiment,
                "overwrite": overwrite,
            }
            if cluster is None:
                tried = trial(**given)
                outcome = tried.output
            else:
                tried = trial_on_cluster(**given, cluster=cluster_profile)
                outcome = tried.outputs["Output"]
            tried.after(opened)
        ranked = rank_trials(
            sweep=sweep,
            trials=trials,
            outcomes=dsl.Collected(outcome),
            dataset_digest=dataset_digest,
            parent_run_id=opened.output,
        )
        _, registered = evaluate_and_register(
            ranked.outputs["experiment"],
            prepared,
            ranked,
            cluster,
            code_version=code_version,
            runner=runner,
        )
        required = require_trials(outcomes=dsl.Collected(outcome), dataset_digest=dataset_digest)
        required.after(registered)
        for step in (opened, tried, ranked, required):
            step.set_caching_options(False)
            if cluster is not None:
                configure_pod(step, cluster, torch=True)

    return sdpose_sweep
