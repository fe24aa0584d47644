"""The DAG: prepare_coco -> train -> evaluate -> register."""

from collections.abc import Mapping
from pathlib import Path

from kfp import compiler, dsl, kubernetes
from kfp.dsl.base_component import BaseComponent

from components import BASE_IMAGE
from components.evaluate import evaluate
from components.prepare_coco import prepare_coco
from components.register import register
from components.train import train

GPU = "nvidia.com/gpu"


def make_pipeline(
    image: str = BASE_IMAGE, gpus: int = 0, volumes: Mapping[str, str] | None = None
) -> BaseComponent:
    """The pipeline as a cluster needs it; the local runner does not look at these.

    image: what the steps run in. gpus: for training; evaluation gets one. volumes: claim -> mount
    path, for every step (the dataset, the work dir).
    """

    @dsl.pipeline(
        name="sdpose",
        description="Checks COCO, trains SDPose on it, evaluates the best checkpoint, registers it",
    )
    def sdpose(
        experiment: str, code_version: str = "", runner: str = "kfp", overwrite: bool = False
    ) -> None:
        """Runs one experiment.

        Args:
            experiment: The resolved experiment, as `sdpose config show` prints it.
            code_version: What computes (`sdpose.code_version`); other code is other results.
            runner: What runs the pipeline, for the summary.
            overwrite: Remove what the work dir holds of another experiment.
        """
        prepared = prepare_coco(experiment=experiment)
        trained = train(
            experiment=experiment,
            dataset_digest=prepared.outputs["dataset_digest"],
            weights_digest=prepared.outputs["weights_digest"],
            code_version=code_version,
            overwrite=overwrite,
        )
        evaluated = evaluate(
            experiment=experiment,
            dataset_digest=prepared.outputs["dataset_digest"],
            checkpoint_sha256=trained.outputs["checkpoint_sha256"],
            code_version=code_version,
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
        for step in (prepared, trained, evaluated, registered):
            step.set_container_image(image)
            # A step's inputs do not say which bytes lie in the dataset's and the work dir's
            # volumes, so a cache hit could be false.
            step.set_caching_options(enable_caching=False)
            for claim, mount_path in (volumes or {}).items():
                kubernetes.mount_pvc(step, pvc_name=claim, mount_path=mount_path)
        for step in (trained, evaluated):
            # Loader processes hand batches over in shared memory; a pod has 64 MiB by default.
            kubernetes.empty_dir_mount(
                step, volume_name="shm", mount_path="/dev/shm", medium="Memory"
            )
        if gpus:
            trained.set_accelerator_type(GPU).set_accelerator_limit(gpus)
            evaluated.set_accelerator_type(GPU).set_accelerator_limit(1)

    return sdpose


sdpose_pipeline = make_pipeline()


def compile_pipeline(pipeline: BaseComponent, path: Path) -> None:
    """Writes the pipeline as KFP's IR (YAML)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(pipeline, package_path=str(path))
