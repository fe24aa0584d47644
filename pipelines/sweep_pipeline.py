"""The DAG of a sweep: (preflight ->) prepare_coco -> trials, some at a time -> ranking -> evaluate
and register the winner -> a check that none has failed."""

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.evaluate import evaluate
from components.open_sweep import open_sweep
from components.prepare_coco import prepare_coco
from components.profile import Cluster, is_s3
from components.rank_trials import rank_trials
from components.register import register
from components.require_trials import require_trials
from components.trial import trial
from components.trial_on_cluster import trial_on_cluster
from pipelines.cluster.preflight.step import preflight
from pipelines.cluster.step_pods import place

NAME = "sdpose-sweep"


def make_sweep_pipeline(
    cluster: Cluster | None = None,
    *,
    parallel: int,
    overwrite: bool = False,
    check: bool = True,
) -> BaseComponent:
    """The pipeline for a cluster, or (None) for this machine.

    parallel: trials that train at the same time. overwrite: train all anew. check: on a cluster,
    the preflight comes first.

    Trials are not cached by KFP, which would keep failures, too: each knows from its work dir what
    is left to do. A trial's step never fails, because Argo starts no further iteration then.
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
        source = cluster.data_root if cluster and is_s3(cluster.data_root) else ""
        prepared = prepare_coco(experiment=experiment, data_source=source)
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
        evaluated = evaluate(
            experiment=ranked.outputs["experiment"],
            data_source=source,
            dataset_digest=dataset_digest,
            checkpoint_sha256=ranked.outputs["checkpoint_sha256"],
            code_version=code_version,
            mlflow_run_id=ranked.outputs["mlflow_run_id"],
            checkpoint=ranked.outputs["checkpoint"],
        )
        registered = register(
            experiment=ranked.outputs["experiment"],
            dataset_digest=dataset_digest,
            checkpoint=ranked.outputs["checkpoint"],
            mlflow_run_id=ranked.outputs["mlflow_run_id"],
            results=evaluated.outputs["results"],
            runner=runner,
        )
        required = require_trials(outcomes=dsl.Collected(outcome), dataset_digest=dataset_digest)
        required.after(registered)
        for step in (prepared, opened, tried, ranked, registered, required):
            step.set_caching_options(False)
        if cluster is not None:
            if check:
                checked = preflight(
                    experiment=experiment, cluster=cluster_profile, code_version=code_version
                )
                checked.set_caching_options(False)
                prepared.after(checked)
                place(checked, cluster, role="registry")
            place(prepared, cluster, role="data")
            for step in (opened, tried, ranked, required):
                place(step, cluster, torch=True)
            place(registered, cluster, torch=True, role="registry")
            place(evaluated, cluster, computes=True)

    return sdpose_sweep
