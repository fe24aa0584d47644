"""`sdpose config`: experiments shown, compared, and imported from mmpose's configurations."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from sdpose.cli.key_reference import table
from sdpose.cli.options import allow_unsupported_option, experiment_options
from sdpose.cli.text import echo
from sdpose.config import (
    dump_experiment,
    experiment_differences,
    experiment_digest,
    flatten,
    load_experiment,
    load_with_origins,
)
from sdpose.errors import UserError

MAX_VALUE_WIDTH = 80  # beyond it, --origin does not align


@click.group()
def config() -> None:
    """Look at experiments, compare them, import them."""


@config.command("show")
@click.option("--origin", is_flag=True, help="Print each key with the file or option that set it.")
@experiment_options
def config_show(exp: str, overrides: tuple[str, ...], origin: bool, **options: str | None) -> None:
    """Print the whole resolved experiment, as every step receives it.

    The sha256 of what is printed is the experiment's digest: `sdpose config show EXP | sha256sum`.
    """
    experiment, origins = load_with_origins(exp, overrides, **options)
    if origin:
        lines = [
            (f"{key}: {json.dumps(value, ensure_ascii=False)}", origins[key])
            for key, value in flatten(experiment.model_dump(mode="json")).items()
        ]
        width = min(MAX_VALUE_WIDTH, max(len(line) for line, _ in lines))
        for line, place in lines:
            echo(f"{line:<{width}}  # {place.removeprefix(f'{Path.cwd()}/')}")
        return
    echo(dump_experiment(experiment), nl=False)
    echo(f"experiment digest: {experiment_digest(experiment)}", err=True)


@config.command("keys")
def config_keys() -> None:
    """Print every key with its meaning, default and an example, as Markdown."""
    echo(table(), nl=False)


@config.command("diff")
@click.argument("first")
@click.argument("second")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object: key to both values.")
def config_diff(first: str, second: str, as_json: bool) -> None:
    """Print the settings in which two resolved experiments differ.

    FIRST and SECOND are names or YAML files; `experiment.yaml` in a work dir is what ran there.
    """
    differences = experiment_differences(load_experiment(first), load_experiment(second))
    if as_json:
        echo(json.dumps({key: list(values) for key, values in differences.items()}, indent=2))
        return
    for key, (old, new) in differences.items():
        echo(f"{key}: {json.dumps(old)} -> {json.dumps(new)}")
    if not differences:
        echo("no difference")


@config.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path, dir_okay=False), metavar="NAME.yaml")
@click.option("--exp-name", metavar="NAME", help="Of the experiment, instead of the file's.")
@click.option("--strict", is_flag=True, help="Refuse whatever is not supported, not losses alone.")
@allow_unsupported_option
@click.option("--force", is_flag=True, help="Replace NAME.yaml.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as a JSON object.")
def config_import(
    file: Path,
    out: Path | None,
    exp_name: str | None,
    strict: bool,
    allow_unsupported: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Make an experiment of FILE, an mmpose 0.x configuration (.py) of SDPose.

    FILE and its _base_ files are read, not run, in a process with limits on time and memory.
    Without -o the experiment is printed. Every setting that the experiment does not keep is listed,
    on stderr and at the head of the file. Exit code 3, and nothing is written, if it would lose a
    loss.
    """
    from sdpose.tools.mmpose_import import import_config
    from sdpose.tools.mmpose_import.report import NotSupportedError

    if strict and allow_unsupported:
        raise UserError("--strict and --allow-unsupported exclude each other: give one of them")
    imported = import_config(file, exp_name)
    report = imported.report
    refused = None
    try:
        report.check(allow_unsupported=allow_unsupported, strict=strict)
    except NotSupportedError as error:
        refused = error
    if out is not None and not refused:
        if out.exists() and not force:
            raise UserError(f"{out} is there already: choose another name, or give --force")
        imported.check_as(out)
        out.write_text(imported.text, encoding="utf-8")
    if as_json:
        written = str(out) if out else imported.text
        lists = asdict(report) | {"source": str(report.source)}
        answer = {"experiment": None if refused else written} | lists
        echo(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        if out is None and not refused:
            echo(imported.text, nl=False)
        for heading, lines in (
            ("not supported, and not in the experiment", report.unsupported),
            ("added to the experiment", report.added),
            ("built in here with the same value, or without effect", report.built_in),
            ("variables of the file, which mmpose does not read either", report.variables),
        ):
            if lines:
                echo("\n  ".join([f"{heading}:", *lines]), err=True)
    if refused:
        raise refused
    if out is not None and not as_json:
        echo(f"{out}: {imported.experiment.exp_name}; sdpose config show {out} prints it all")
