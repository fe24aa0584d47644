"""The DAG: (preflight ->) prepare_coco -> train -> evaluate -> register (-> promote).

The same on this machine and on a cluster, where a launcher trains by a PyTorchJob (or TrainJob)
and the cluster is looked at first.
"""

from pathlib import Path

from kfp import compiler, dsl
from kfp.dsl.base_component import BaseComponent

from components.evaluate import evaluate
from components.prepare_coco import prepare_coco
from components.profile import Cluster, is_s3
from components.promote import promote
from components.register import register
from components.train import train
from components.train_on_cluster import train_on_cluster
from pipelines.cluster.preflight.step import preflight
from pipelines.cluster.step_pods import place

NAME = "sdpose"


def make_pipeline(
    cluster: Cluster | None = None,
    *,
    cache: bool = True,
    overwrite: bool = False,
    check: bool = True,
    promotes: bool = False,
) -> BaseComponent:
    """The pipeline for a cluster, or (None) for this machine.

    cache: on a cluster, a step whose parameters, image and code are those of an earlier one is not
    run again. The parameters are digests of all that its result depends on; steps that look at the
    world (preflight, prepare_coco) or change it (register, promote) always run. overwrite: train
    anew, and remove what the work dir holds of another experiment first. check: on a cluster, the
    preflight comes first. promotes: the version goes to the channel `promote_to`, if the gates
    agree.
    """

    @dsl.pipeline(
        name=NAME,
        description="Checks COCO, trains SDPose on it, evaluates the best checkpoint, registers it",
    )
    def sdpose(
        experiment: str,
        code_version: str = "",
        cluster_profile: str = "",
        runner: str = "kfp",
        promote_to: str = "",
        approver: str = "",
    ) -> None:
        """Runs one experiment.

        Args:
            experiment: The resolved experiment, as `sdpose config show` prints it.
            code_version: What computes (`sdpose.code_version`); other code is other results. On a
                cluster that of the sources alone: the image says which libraries there are.
            cluster_profile: As JSON (components.profile.dump_cluster); empty on this machine.
            runner: What runs the pipeline, for the summary.
            promote_to: The channel of the registry; empty if nothing is promoted.
            approver: Who wants it there.
        """
        source = cluster.data_root if cluster and is_s3(cluster.data_root) else ""
        prepared = prepare_coco(experiment=experiment, data_source=source)
        digests = {
            "dataset_digest": prepared.outputs["dataset_digest"],
            "weights_digest": prepared.outputs["weights_digest"],
            "code_version": code_version,
        }
        if cluster is None:
            trained = train(experiment=experiment, overwrite=overwrite, **digests)
        else:
            trained = train_on_cluster(
                experiment=experiment,
                overwrite=overwrite,
                cluster=cluster_profile,
                **digests,
            )
        evaluated = evaluate(
            experiment=experiment,
            data_source=source,
            dataset_digest=prepared.outputs["dataset_digest"],
            checkpoint_sha256=trained.outputs["checkpoint_sha256"],
            code_version=code_version,
            mlflow_run_id=trained.outputs["mlflow_run_id"],
            checkpoint=trained.outputs["checkpoint"],
        )
        registered = register(
            experiment=experiment,
            dataset_digest=prepared.outputs["dataset_digest"],
            checkpoint=trained.outputs["checkpoint"],
            mlflow_run_id=trained.outputs["mlflow_run_id"],
            results=evaluated.outputs["results"],
            runner=runner,
        )
        prepared.set_caching_options(False)
        registered.set_caching_options(False)
        trained.set_caching_options(cache and not overwrite)
        evaluated.set_caching_options(cache)
        if promotes:
            promoted = promote(
                experiment=experiment,
                data_source=source,
                model_version=registered.outputs["model_version"],
                channel=promote_to,
                approver=approver,
            )
            promoted.set_caching_options(False)
            if cluster is not None:  # the gates run the model, and may evaluate the present one
                place(promoted, cluster, computes=True, role="registry")
        if cluster is not None:
            if check:
                checked = preflight(
                    experiment=experiment, cluster=cluster_profile, code_version=code_version
                )
                checked.set_caching_options(False)
                prepared.after(checked)
                place(checked, cluster, role="registry")
            place(prepared, cluster, role="data")
            place(trained, cluster, torch=True)  # it reads the checkpoint that the job has left
            place(evaluated, cluster, computes=True)
            # It converts the checkpoint to safetensors.
            place(registered, cluster, torch=True, role="registry")

    return sdpose


sdpose_pipeline = make_pipeline()


def compile_pipeline(pipeline: BaseComponent, path: Path) -> None:
    """Writes the pipeline as KFP's IR (YAML)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(pipeline, package_path=str(path))
