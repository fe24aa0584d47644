"""The DAG: (preflight ->) prepare_coco -> train -> evaluate -> register (-> promote).

The same on this machine and on a cluster, where a launcher trains by a PyTorchJob (or TrainJob)
and a preflight checks the cluster first.
"""

from pathlib import Path
from typing import Any

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
from pipelines.cluster.step_pods import configure_pod

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

    Args:
        cache: on a cluster, a step whose parameters, image and code are those of an earlier one is
            not run again. The parameters are digests of all that its result depends on; steps that
            look at the world (preflight, prepare_coco) or change it (register, promote) always run.
        overwrite: train again from the start, and first remove what the work dir holds of another
            experiment.
        check: on a cluster, the preflight comes first.
        promotes: the version goes to the channel `promote_to`, if the gates agree.
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
        prepared = prepare(experiment, cluster, cluster_profile, code_version, check=check)
        inputs = {
            "experiment": experiment,
            "overwrite": overwrite,
            "dataset_digest": prepared.outputs["dataset_digest"],
            "weights_digest": prepared.outputs["weights_digest"],
            "code_version": code_version,
        }
        if cluster is None:
            trained = train(**inputs)
        else:
            trained = train_on_cluster(**inputs, cluster=cluster_profile)
            configure_pod(trained, cluster, torch=True)  # it reads the job's checkpoint
        trained.set_caching_options(cache and not overwrite)
        evaluated, registered = evaluate_and_register(
            experiment, prepared, trained, cluster, code_version=code_version, runner=runner
        )
        evaluated.set_caching_options(cache)
        if promotes:
            promoted = promote(
                experiment=experiment,
                data_source=data_source(cluster),
                model_version=registered.outputs["model_version"],
                channel=promote_to,
                approver=approver,
            )
            promoted.set_caching_options(False)
            if cluster is not None:  # the gates run the model, and may evaluate the present one
                configure_pod(promoted, cluster, computes=True, role="registry")

    return sdpose


def data_source(cluster: Cluster | None) -> str:
    """Where steps bring the dataset from first; empty if it lies in data_root."""
    return cluster.data_root if cluster and is_s3(cluster.data_root) else ""


def prepare(
    experiment: Any,
    cluster: Cluster | None,
    cluster_profile: Any,
    code_version: Any,
    *,
    check: bool,
) -> dsl.PipelineTask:
    """The first steps of every pipeline: (preflight ->) prepare_coco."""
    prepared = prepare_coco(experiment=experiment, data_source=data_source(cluster))
    prepared.set_caching_options(False)
    if cluster is None:
        return prepared
    if check:
        checked = preflight(
            experiment=experiment, cluster=cluster_profile, code_version=code_version
        )
        checked.set_caching_options(False)
        prepared.after(checked)
        configure_pod(checked, cluster, role="registry")
    configure_pod(prepared, cluster, role="data")
    return prepared


def evaluate_and_register(
    experiment: Any,
    prepared: dsl.PipelineTask,
    trained: dsl.PipelineTask,
    cluster: Cluster | None,
    *,
    code_version: Any,
    runner: Any,
) -> tuple[dsl.PipelineTask, dsl.PipelineTask]:
    """The steps after a training. trained: hands on checkpoint, its SHA-256 and MLflow's run."""
    dataset_digest = prepared.outputs["dataset_digest"]
    evaluated = evaluate(
        experiment=experiment,
        data_source=data_source(cluster),
        dataset_digest=dataset_digest,
        checkpoint_sha256=trained.outputs["checkpoint_sha256"],
        code_version=code_version,
        mlflow_run_id=trained.outputs["mlflow_run_id"],
        checkpoint=trained.outputs["checkpoint"],
    )
    registered = register(
        experiment=experiment,
        dataset_digest=dataset_digest,
        checkpoint=trained.outputs["checkpoint"],
        mlflow_run_id=trained.outputs["mlflow_run_id"],
        results=evaluated.outputs["results"],
        runner=runner,
    )
    registered.set_caching_options(False)
    if cluster is not None:
        configure_pod(evaluated, cluster, computes=True)
        # It converts the checkpoint to safetensors.
        configure_pod(registered, cluster, torch=True, role="registry")
    return evaluated, registered


sdpose_pipeline = make_pipeline()


def compile_pipeline(pipeline: BaseComponent, path: Path) -> None:
    """Writes the pipeline as KFP's IR (YAML)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(pipeline, package_path=str(path))
