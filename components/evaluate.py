"""Step 3: the AP of the checkpoint that training handed on, and the report of the run."""

from kfp import dsl

from components import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def evaluate(
    experiment: str,
    data_source: str,
    dataset_digest: str,
    checkpoint_sha256: str,
    code_version: str,
    mlflow_run_id: str,
    checkpoint: dsl.Input[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    results: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Evaluates a checkpoint on the validation set.

    Without a detection file it takes ground-truth boxes, and every output says so.

    Args:
        experiment: The resolved experiment, as `sdpose config show` prints it.
        data_source: Where the dataset is brought from first; empty if it lies in data_root.
        dataset_digest: Of the dataset that was checked; other data is refused.
        checkpoint_sha256: Of the checkpoint's file: KFP's cache key knows an artifact by name only.
        code_version: Of the code; other code may compute other figures.
        mlflow_run_id: The training's run, which gets the report, too; empty if there is none.
        checkpoint: The checkpoint that training handed on.
        metrics: COCO's ten AP and AR figures, 0..1.
        results: A folder with results.json, COCO's keypoint results, and results.metrics.json.
        report: The run, its figures and pictures, as one page.
    """
    from pathlib import Path

    from sdpose.config import parse_experiment
    from sdpose.data.auto_skeleton import with_skeleton
    from sdpose.errors import user_errors
    from sdpose.evaluation import format_table, write_results
    from sdpose.report.run_report import report_run
    from sdpose.runner.evaluate_checkpoint import evaluate_checkpoint
    from sdpose.tools.coco_fetch.fetch import fetch_coco

    with user_errors():
        resolved = parse_experiment(experiment)
        if data_source:
            fetch_coco(data_source, Path(resolved.data_root))
        resolved = with_skeleton(resolved)
        evaluated = Path(checkpoint.path) / checkpoint.metadata["file"]
        result = evaluate_checkpoint(
            resolved,
            evaluated,
            missing_detections="use_gt_bbox",
            dataset_digest=dataset_digest,
        )
        assert result is not None  # this is the only process
        results_file = Path(results.path) / "results.json"
        write_results(result, results_file)
        print(f"mAP on {result.bbox_source} boxes\n{format_table(result.metrics)}")
        facts = {
            "dataset_digest": dataset_digest,
            "git_commit": checkpoint.metadata["git_commit"],
            "mlflow_run_id": mlflow_run_id,
        }
        report_run(
            resolved, Path(report.path), results=results_file, checkpoint=evaluated, facts=facts
        )
    for name, value in result.metrics.items():
        metrics.log_metric(name, value)
