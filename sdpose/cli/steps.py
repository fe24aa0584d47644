"""`sdpose synth | prepare | train | sync | test`: the single steps of the pipeline."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import asdict
from pathlib import Path

import click

from sdpose.cli.options import allow_unsupported_option, experiment_options, start_options
from sdpose.cli.text import answer, echo, json_option
from sdpose.config import Experiment, load_experiment
from sdpose.errors import UserError
from sdpose.log_setup import log_to
from sdpose.tools.mmpose_import.direct import experiment_loader, with_experiment_file


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--train", "num_train", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--val", "num_val", type=click.IntRange(1), default=200, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--skeleton",
    default="coco",
    show_default=True,
    metavar="NAME",
    help="What is drawn and annotated: coco, head5, crowdpose, mpii, ap10k or hand21.",
)
def synth(out: Path, num_train: int, num_val: int, seed: int, skeleton: str) -> None:
    """Write a synthetic COCO keypoints dataset to OUT.

    Rendered articulated people, heads, animals or hands in the true COCO layout; --train and --val
    are numbers of images. The same seed gives the same bytes.
    """
    from sdpose.progress_bar import ConsoleProgress
    from sdpose.tools.synthetic.dataset import write_synthetic_coco

    with ConsoleProgress("rendering", "images") as progress:
        write_synthetic_coco(
            out,
            num_train=num_train,
            num_val=num_val,
            seed=seed,
            skeleton=skeleton,
            progress=progress,
        )
    echo(f"{out}: {num_train} training and {num_val} validation images")


@click.command()
@experiment_options
@click.option(
    "--fetch",
    metavar="SOURCE",
    help="First bring COCO here, from an http(s) mirror, s3://bucket/prefix or a folder.",
)
@click.option(
    "--expect-digest",
    metavar="SHA256",
    help="Fail unless the dataset has this digest, as an earlier prepare printed it.",
)
@json_option
def prepare(
    exp: str,
    overrides: tuple[str, ...],
    fetch: str | None,
    expect_digest: str | None,
    as_json: bool,
    **options: str | None,
) -> None:
    """Check the dataset of EXP and print its digest.

    All problems are reported at once: missing files, images that do not decode, annotations that
    do not fit. A second run on an unchanged tree takes seconds.
    """
    from sdpose.pack_store import prepare_pack
    from sdpose.prepare.dataset import prepare_coco

    expected = (expect_digest or "").lower()
    if expect_digest is not None and not re.fullmatch(r"[0-9a-f]{64}", expected):
        raise UserError(
            f"--expect-digest: {expect_digest!r} is no digest: give the 64 hexadecimal digits that "
            "'sdpose prepare' prints"
        )
    experiment = load_experiment(exp, overrides, **options)
    if fetch:
        from sdpose.tools.coco_fetch.fetch import fetch_coco

        fetch_coco(fetch, Path(experiment.data_root), vouched=bool(expected))
    prepared = prepare_coco(experiment, pack_into=prepare_pack)
    if expected and prepared.digest != expected:
        raise UserError(
            f"{prepared.data_root.absolute()}: the dataset has the digest {prepared.digest}, "
            f"expected {expected}: it is another one, or its files were changed. Do not train on "
            "it; fetch it again from another source, into an empty folder"
        )
    answer(prepared.summary(), asdict(prepared), as_json=as_json)


@click.command()
@experiment_options
@start_options
@allow_unsupported_option
def train(
    exp: str,
    overrides: tuple[str, ...],
    overwrite: bool,
    allow_unsupported: bool,
    **options: str | None,
) -> None:
    """Train EXP in this process. EXP may be an mmpose 0.x configuration (.py) as well.

    An interrupted run continues where it was: give the same command again. Several GPUs:
    sdpose launch --nproc-per-node 8 train EXP (or torchrun --nproc-per-node 8 -m sdpose train EXP)
    """
    load = experiment_loader(exp, allow_unsupported=allow_unsupported)
    experiment = load(overrides, **options)

    from sdpose.runner.train import train as train_experiment

    result = train_experiment(experiment, overwrite=overwrite)
    if os.environ.get("RANK", "0") == "0":  # of torchrun's processes the first
        _say_where_to_look(experiment, result.mlflow_run_id)


def _say_where_to_look(experiment: Experiment, mlflow_run_id: str | None) -> None:
    from sdpose.tracking import pages_of
    from sdpose.training.paths import run_paths

    work_dir = run_paths(experiment).work_dir
    lines = {
        "report": f"sdpose report {work_dir}",
        **pages_of(mlflow_run_id),
        "all runs": f"sdpose compare {work_dir.parent}/*",
    }
    echo("\n".join(f"{name + ':':<15}{value}" for name, value in lines.items()))


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    options_metavar="[TORCHRUN'S OPTIONS] [--]",
)
@click.argument(
    "arguments", nargs=-1, type=click.UNPROCESSED, required=True, metavar="train|test EXP ..."
)
def launch(arguments: tuple[str, ...]) -> None:
    """Train or test EXP in several processes, and end with an exit code that says why.

    \b
    Takes torchrun's options and PET_* variables (torchrun --help):
      sdpose launch --nproc-per-node 8 --max-restarts 3 train EXP --data-root D
    Exit codes:
      0             done
      2             an error in the input
      3             an mmpose configuration (.py) that would lose a loss
      128 and more  killed or asked to stop; the same command continues
      other         a crash
    """
    with with_experiment_file(arguments, ("train", "test")) as words:
        from sdpose.runner.launch import launch as launch_processes

        sys.exit(launch_processes(words))


@click.command()
@click.argument("work_dir", type=click.Path(path_type=Path))
def sync(work_dir: Path) -> None:
    """Deliver to MLflow what it missed of the training in WORK_DIR while it was away.

    Exit code 1 if it still does not take everything; nothing is lost, nor sent twice.
    """
    from sdpose.outputs.work_dir_lock import locked
    from sdpose.training.paths import EXPERIMENT_FILE

    if not (work_dir / EXPERIMENT_FILE).is_file():
        raise UserError(f"{work_dir}: no training's work dir: it holds no {EXPERIMENT_FILE}")
    from sdpose.outputs.mlflow_sink import deliver_what_waits

    with locked(work_dir), log_to(echo):
        if deliver_what_waits(work_dir):
            sys.exit(1)
    echo("MLflow has everything")


@click.command()
@experiment_options
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--eval", "metric", type=click.Choice(["mAP"]), default="mAP", show_default=True)
@click.option("--use-gt-bbox", is_flag=True, help="Evaluate on ground-truth boxes.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="F.json",
    help="Write the COCO results list here, and the figures to F.metrics.json.",
)
@allow_unsupported_option
@json_option
def test(
    exp: str,
    checkpoint: Path,
    overrides: tuple[str, ...],
    metric: str,
    use_gt_bbox: bool,
    out: Path | None,
    allow_unsupported: bool,
    as_json: bool,
    **options: str | None,
) -> None:
    """Evaluate CHECKPOINT on the validation set of EXP.

    EXP may be an mmpose 0.x configuration (.py) as well. CHECKPOINT is one of ours, a .safetensors
    file or an official .pth. Also under `sdpose launch`: any number of processes gives the same
    result.
    """
    if use_gt_bbox:
        overrides = (*overrides, "data_cfg.use_gt_bbox=true")
    load = experiment_loader(exp, allow_unsupported=allow_unsupported)
    experiment = load(overrides, **options)

    from sdpose.evaluation import format_table, write_results
    from sdpose.runner.evaluate_checkpoint import evaluate_checkpoint

    result = evaluate_checkpoint(experiment, checkpoint)
    if result is None:  # not the first process of torchrun
        return
    text = f"{metric} on {result.bbox_source} boxes\n{format_table(result.metrics)}"
    answer(text, {**result.metrics, "settings": result.settings}, as_json=as_json)
    if out:
        write_results(result, out)
