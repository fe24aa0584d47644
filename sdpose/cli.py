"""The `sdpose` command. One subcommand is one call into the rooms.

Heavy modules are imported inside the commands: `sdpose --help` must not wait for torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click

from sdpose import __version__
from sdpose.config import (
    Experiment,
    dump_experiment,
    experiment_digest,
    load_experiment,
)
from sdpose.errors import UserError, user_errors

Command = Callable[..., Any]


def experiment_options(command: Command) -> Command:
    """The argument and options that say which experiment, on which data, into which folder."""
    decorators = (
        click.argument("exp"),
        click.option("--data-root", metavar="DIR", help="Folder of the COCO dataset."),
        click.option("--work-dir", metavar="DIR", help="Folder of the results."),
        click.option(
            "--set",
            "overrides",
            metavar="KEY.PATH=VALUE",
            multiple=True,
            help="Change one value of the experiment; repeatable.",
        ),
    )
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def cli() -> None:
    """SDPose: small, accurate human-pose transformers, trained by self-distillation.

    EXP is the name of an experiment in pipelines/experiments (quickstart, sdpose_s_v1,
    maskedkd_v2, ...) or the path of a YAML file. The whole pipeline, tracked and registered, is
    run by `python pipelines/submit.py --exp EXP`; these commands are its single steps.
    """


@cli.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--train", "num_train", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--val", "num_val", type=click.IntRange(1), default=200, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def synth(out: Path, num_train: int, num_val: int, seed: int) -> None:
    """Write a synthetic COCO keypoints dataset to OUT.

    Rendered articulated people in the true COCO layout; --train and --val are numbers of images.
    The same seed gives the same bytes.
    """
    from sdpose.data.progress import ConsoleProgress
    from sdpose.data.synthetic import write_synthetic_coco

    with ConsoleProgress("rendering", "images") as progress:
        write_synthetic_coco(
            out, num_train=num_train, num_val=num_val, seed=seed, progress=progress
        )
    click.echo(f"{out}: {num_train} training and {num_val} validation images")


@cli.group()
def config() -> None:
    """Look at experiments."""


@config.command("show")
@experiment_options
def config_show(exp: str, overrides: tuple[str, ...], **options: str | None) -> None:
    """Print the whole resolved experiment, as every step receives it.

    The sha256 of what is printed is the experiment's digest: `sdpose config show EXP | sha256sum`.
    """
    experiment = load_experiment(exp, overrides, **options)
    click.echo(dump_experiment(experiment), nl=False)
    click.echo(f"experiment digest: {experiment_digest(experiment)}", err=True)


@cli.command()
@experiment_options
@click.option(
    "--fetch",
    metavar="SOURCE",
    help="First bring COCO here, from an http(s) mirror, s3://bucket/prefix or a folder.",
)
def prepare(exp: str, overrides: tuple[str, ...], fetch: str | None, **options: str | None) -> None:
    """Check the dataset of EXP and print its digest.

    All problems are reported at once: missing files, images that do not decode, annotations that
    do not fit. A second run on an unchanged tree takes seconds.
    """
    from sdpose.data.prepare import prepare_coco

    experiment = load_experiment(exp, overrides, **options)
    if fetch:
        from sdpose.data.fetch import fetch_coco

        fetch_coco(fetch, Path(experiment.data_root))
    click.echo(prepare_coco(experiment).summary())


@cli.command()
@experiment_options
@click.option("--resume-from", metavar="PATH|auto", help="Continue this checkpoint, or the newest.")
@click.option("--load-from", metavar="PATH", help="Start from the weights of this file.")
@click.option("--overwrite", is_flag=True, help="Remove what the work dir holds and start anew.")
def train(exp: str, overrides: tuple[str, ...], overwrite: bool, **options: str | None) -> None:
    """Train EXP in this process, or under torchrun.

    An interrupted run continues where it was: give the same command again. Several GPUs:
    torchrun --nproc-per-node 8 -m sdpose train EXP
    """
    experiment = load_experiment(exp, overrides, **options)

    from sdpose.training import train as train_experiment

    train_experiment(experiment, overwrite=overwrite)


@cli.command()
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
def test(
    exp: str,
    checkpoint: Path,
    overrides: tuple[str, ...],
    metric: str,
    use_gt_bbox: bool,
    out: Path | None,
    **options: str | None,
) -> None:
    """Evaluate CHECKPOINT on the validation set of EXP.

    CHECKPOINT is one of ours, a .safetensors file or an official .pth. Also under torchrun: any
    number of processes gives the same result.
    """
    if use_gt_bbox:
        overrides = (*overrides, "data_cfg.use_gt_bbox=true")
    experiment = load_experiment(exp, overrides, **options)

    from sdpose.evaluation import format_table, write_results
    from sdpose.training import test_checkpoint

    result = test_checkpoint(experiment, checkpoint)
    if result is None:  # not the first process of torchrun
        return
    click.echo(f"{metric} on {result.bbox_source} boxes")
    click.echo(format_table(result.metrics))
    if out:
        write_results(result, out)


@cli.command()
def models() -> None:
    """The four models: parameters and multiply-accumulates, beside the paper's figures."""
    from sdpose.models.complexity import format_models_table, models_table

    click.echo(format_models_table(models_table()))


@cli.group()
def weights() -> None:
    """Weight files."""


@weights.command("convert")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "layout",
    type=click.Choice(["sdpose", "official"]),
    help="Whose names the tensors get; default: ours from official ones, official from ours.",
)
def weights_convert(
    source: Path, target: Path, layout: Literal["sdpose", "official"] | None
) -> None:
    """Rewrite SOURCE as TARGET (.pth or .safetensors), from official names to ours or back.

    The numbers stay the same, bit for bit.
    """
    from sdpose.models.weights import convert_weights

    convert_weights(source, target, layout=layout)


def main() -> None:
    with user_errors():
        try:
            cli(standalone_mode=False)
        except click.UsageError as error:
            error.show()
            sys.exit(2)
        except click.ClickException as error:
            raise UserError(error.format_message()) from None
        except click.Abort:
            sys.exit(130)


__all__ = ["Experiment", "cli", "main"]
