"""`sdpose compare`: what differs in runs, and what came of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from sdpose.cli.text import answer, format_rows, json_option

if TYPE_CHECKING:
    from sdpose.comparison.runs import Comparison
    from sdpose.comparison.spread import Spread


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@json_option
def compare(runs: tuple[str, ...], as_json: bool) -> None:
    """Compare RUNs: settings that differ beside the metrics of their best epoch.

    RUN is a work dir, or an experiment's name below work_dirs. Runs that differ in their seed alone
    are one configuration: its metrics are means ± standard deviations, and a difference to the
    first configuration that the seeds explain is called noise (Welch's 95 % interval).

    \b
    sdpose compare sdpose_s_v1 maskedkd_v2
    sdpose compare work_dirs/seeds-*
    """
    from sdpose.comparison.runs import compare as compare_runs

    comparison = compare_runs(runs)
    answer(_text(comparison), _value(comparison), as_json=as_json)


def _text(comparison: Comparison) -> str:
    from sdpose.comparison.ranking import number
    from sdpose.comparison.runs import METRICS

    configurations = comparison.configurations
    rows = [
        ["runs", *(str(len(c.runs)) for c in configurations)],
        ["seeds", *(", ".join(str(r.experiment.seed) for r in c.runs) for c in configurations)],
        ["best epoch", *(", ".join(str(r.epoch) for r in c.runs) for c in configurations)],
        *([key, *map(number, values)] for key, values in comparison.settings.items()),
    ]
    for metric in METRICS:
        cells = []
        for c, behind in zip(configurations, comparison.differences(metric), strict=True):
            cell = _spread_text(c.spread(metric))
            if behind is not None:
                known = "one seed each" if behind.verdict == "unknown" else behind.verdict
                cell += f"  {behind.value:+.4f} {known}"
            cells.append(cell)
        rows.append([metric, *cells])
    text = format_rows(["", *(c.name for c in configurations)], rows)
    if len(configurations) > 1 and all(len(c.runs) == 1 for c in configurations):
        text += (
            "\n\nOne seed each says nothing of chance: run more of them, as in "
            "`python pipelines/submit.py --sweep seeds`."
        )
    return text


def _spread_text(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    return f"{spread.mean:.4f}" + (
        f" ± {spread.deviation:.4f}" if spread.deviation is not None else ""
    )


def _value(comparison: Comparison) -> dict[str, object]:
    from sdpose.comparison.runs import METRICS

    configurations = comparison.configurations
    return {
        "configurations": [
            {
                "name": c.name,
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
        "metrics": {
            metric: [
                {"spread": s and asdict(s), "difference": d and asdict(d)}
                for s, d in zip(
                    [c.spread(metric) for c in configurations],
                    comparison.differences(metric),
                    strict=True,
                )
            ]
            for metric in METRICS
        },
    }
