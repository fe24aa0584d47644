"""`sdpose compare`: runs by their AP, what differs in them, and what is chance."""

from __future__ import annotations

import csv
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdpose.cli.text import answer, echo, format_rows, json_option, shorten

if TYPE_CHECKING:
    from sdpose.comparison.runs import Comparison
    from sdpose.comparison.spread import Spread

WIDTH = 80
Column = list[str]


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--anyway", is_flag=True, help="Also runs that were evaluated on different things.")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="A page with curves.")
@click.option(
    "--csv", "table", type=click.Path(path_type=Path), metavar="FILE", help="A row a run."
)
@json_option
def compare(
    runs: tuple[str, ...], anyway: bool, html: Path | None, table: Path | None, as_json: bool
) -> None:
    """Rank RUNs by the AP of their best epoch, beside the settings that differ.

    RUN is a work dir, or an experiment's name below work_dirs. What is no run is skipped, so that
    work_dirs/* can be given. Runs that differ in their seed alone are one configuration: its
    metrics are means ± standard deviations, and a difference to the best configuration that the
    seeds explain is called noise (Welch's 95 % interval).

    Runs that were evaluated on another dataset, other boxes or with other evaluation settings do
    not compare: they are refused unless --anyway, and marked then.

    \b
    sdpose compare sdpose_s_v1 maskedkd_v2
    sdpose compare work_dirs/*
    """
    from sdpose.comparison.page import write_comparison
    from sdpose.comparison.runs import compare as compare_runs

    comparison = compare_runs(runs, anyway=anyway)
    if comparison.skipped:
        reasons = "; ".join(comparison.skipped[:3])
        more = f"; and {len(comparison.skipped) - 3} more" if len(comparison.skipped) > 3 else ""
        echo(f"skipped: {reasons}{more}", err=True)
    if html is not None:
        write_comparison(html, comparison)
    if table is not None:
        _write_csv(table, comparison)
    answer(_text(comparison), _value(comparison), as_json=as_json)


def _text(comparison: Comparison) -> str:
    configurations = comparison.configurations
    numbers = [str(number) for number in range(1, len(configurations) + 1)]
    columns = [
        ["#", *numbers],
        ["AP", *(_spread_text(c.spread("AP")) for c in configurations)],
        ["behind", *_behind(comparison)],
        ["epoch", *(_listed([str(run.epoch) for run in c.runs]) for c in configurations)],
        ["seed", *(_listed([str(r.experiment.seed) for r in c.runs]) for c in configurations)],
    ]
    names = [c.name for c in configurations]
    blocks = [_table(columns, names)]
    blocks.append(
        _table(
            [
                ["#", *numbers],
                *(
                    [m, *(_mean(c.spread(m)) for c in configurations)]
                    for m in comparison.metrics[1:]
                ),
            ],
            names,
        )
    )
    for title, differing in {
        "evaluated on": comparison.evaluations,
        "settings that differ": comparison.settings,
    }.items():
        if differing:
            lines = [title, *(_by_value(key, row) for key, row in differing.items())]
            blocks.append("\n".join(lines))
    if comparison.evaluations:
        blocks.append("AP of runs that were evaluated differently does not compare (--anyway).")
    if len(configurations) > 1 and all(len(c.runs) == 1 for c in configurations):
        blocks.append(
            "One seed each says nothing of chance: run more of them, as in\n"
            "`python pipelines/submit.py --sweep seeds`."
        )
    return "\n\n".join(blocks)


def _table(columns: list[Column], names: list[str]) -> str:
    """With the names as the last column, in WIDTH columns."""
    left = WIDTH - sum(max(map(len, column)) + 2 for column in columns)
    columns = [*columns, ["run", *(shorten(name, max(left, 20)) for name in names)]]
    header, *rows = zip(*columns, strict=True)
    return format_rows(header, rows)


def _behind(comparison: Comparison) -> Column:
    first, *others = comparison.configurations
    cells = [""]
    for other, behind in zip(others, comparison.differences("AP")[1:], strict=True):
        if behind is None:
            cells.append("" if other.evaluated_on == first.evaluated_on else "other evaluation")
        else:
            known = "" if behind.verdict == "unknown" else f" {behind.verdict}"
            cells.append(f"{behind.value:+.4f}{known}")
    return cells


def _by_value(key: str, row: list[Any]) -> str:
    """Which configurations have which value, by their numbers."""
    from sdpose.comparison.ranking import number
    from sdpose.comparison.runs import by_value

    found = by_value(map(number, row), [f"#{place}" for place in range(1, len(row) + 1)])
    text = "; ".join(f"{value} ({' '.join(places)})" for value, places in found.items())
    return textwrap.fill(
        f"{key}: {text}",
        WIDTH,
        initial_indent="  ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _listed(values: list[str]) -> str:
    return ", ".join(values) if len(values) <= 3 else f"{len(values)} of them"


def _mean(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.mean:.4f}"


def _spread_text(spread: Spread | None) -> str:
    if spread is None or spread.deviation is None:
        return _mean(spread)
    return f"{spread.mean:.4f} ± {spread.deviation:.4f}"


def _write_csv(path: Path, comparison: Comparison) -> None:
    metrics, settings = comparison.metrics, list(comparison.settings)
    header = ["run", "work_dir", "seed", "epoch", "dataset", "boxes", *metrics, *settings]
    rows = [
        [
            *(run.experiment.exp_name, run.work_dir, run.experiment.seed, run.epoch),
            *(run.evaluated_on[key] for key in ("dataset", "boxes")),
            *(run.metrics.get(metric, "") for metric in metrics),
            *(configuration.settings.get(key, "") for key in settings),
        ]
        for configuration in comparison.configurations
        for run in configuration.runs
    ]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def _value(comparison: Comparison) -> dict[str, object]:
    configurations = comparison.configurations
    return {
        "configurations": [
            {
                "name": c.name,
                "evaluated_on": dict(c.evaluated_on),
                "runs": [
                    {
                        "work_dir": str(run.work_dir),
                        "seed": run.experiment.seed,
                        "epoch": run.epoch,
                        "metrics": run.metrics,
                    }
                    for run in c.runs
                ],
            }
            for c in configurations
        ],
        "settings": comparison.settings,
        "evaluations": comparison.evaluations,
        "metrics": {
            metric: [
                {"spread": s and asdict(s), "difference": d and asdict(d)}
                for s, d in zip(
                    [c.spread(metric) for c in configurations],
                    comparison.differences(metric),
                    strict=True,
                )
            ]
            for metric in comparison.metrics
        },
    }
