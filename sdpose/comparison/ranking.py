"""The trials of a sweep in the order of what they reached."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sdpose.comparison.spread import Difference, Spread, difference
from sdpose.comparison.trial_outcome import TrialOutcome
from sdpose.errors import UserError


@dataclass(frozen=True)
class Entry:
    """One setting of the sweep, or one configuration that is compared, over its seeds."""

    settings: dict[str, Any]
    outcomes: tuple[TrialOutcome, ...]
    ap: Spread | None  # over the seeds that ran to the end; None: none did
    name: str = ""  # of what is more than its settings

    @property
    def label(self) -> str:
        return (
            self.name
            or ", ".join(f"{key} {number(v)}" for key, v in self.settings.items())
            or "all"
        )

    @property
    def best(self) -> TrialOutcome:
        """Of the trials that ran to the end."""
        return max(self._complete, key=lambda outcome: outcome.ap or 0.0)

    @property
    def highest_ap(self) -> float:
        """Of all, those that were stopped too; below every AP if all have failed."""
        return max((o.ap for o in self.outcomes if o.ap is not None), default=-1.0)

    @property
    def _complete(self) -> list[TrialOutcome]:
        return [outcome for outcome in self.outcomes if outcome.status == "finished"]


def rank(trials: Sequence[dict[str, str]], outcomes: Sequence[str]) -> list[Entry]:
    """The settings, best first: by mean AP of those that ran to the end, then of those stopped.

    trials: of each, its name as `trial` and its settings as JSON. outcomes: as TrialOutcome.to_json
    made them, in any order.
    """
    by_name = {o.name: o for o in map(TrialOutcome.from_json, outcomes)}
    groups: dict[str, list[TrialOutcome]] = {}
    for trial in trials:
        groups.setdefault(trial["settings"], []).append(by_name[trial["trial"]])
    entries = []
    for settings, members in groups.items():
        reached = [o.ap for o in members if o.status == "finished" and o.ap is not None]
        ap = Spread.of(reached) if reached else None
        entries.append(Entry(json.loads(settings), tuple(members), ap))
    return sorted(
        entries, key=lambda e: (e.ap is not None, e.ap.mean if e.ap else e.highest_ap), reverse=True
    )


def winner(entries: Sequence[Entry]) -> TrialOutcome:
    """The best seed of the best settings. Raises UserError if no trial ran to the end."""
    if not entries or entries[0].ap is None:
        failed = [o for entry in entries for o in entry.outcomes if o.status == "failed"]
        reasons = "\n  ".join(f"{o.name}: {o.message}" for o in failed[:10])
        raise UserError(f"none of the sweep's trials ran to the end\n  {reasons}")
    return entries[0].best


def behind_the_best(entries: Sequence[Entry]) -> list[Difference | None]:
    """For each entry the difference of its AP to the first one's; None where there is none."""
    first = entries[0].ap if entries else None
    return [
        None
        if entry is entries[0] or entry.ap is None or first is None
        else difference(first, entry.ap)
        for entry in entries
    ]


def markdown(name: str, entries: Sequence[Entry]) -> str:
    """The ranked table."""
    keys = list(dict.fromkeys(key for entry in entries for key in entry.settings))
    header = ["", *keys, "AP", "seeds", "behind the best", "trials"]
    lines = [f"# Sweep {name}", "", _row(header), _row(["---"] * len(header))]
    for place, (entry, behind) in enumerate(
        zip(entries, behind_the_best(entries), strict=True), start=1
    ):
        lines.append(
            _row(
                [
                    str(place),
                    *(number(entry.settings.get(key, "")) for key in keys),
                    ap_text(entry),
                    str(entry.ap.count if entry.ap else 0),
                    behind_text(behind),
                    status_text(entry),
                ]
            )
        )
    notes = [
        f"- {outcome.name}: {outcome.status}: {outcome.message}"
        for entry in entries
        for outcome in entry.outcomes
        if outcome.message
    ]
    return "\n".join([*lines, "", *notes]).rstrip() + "\n"


def number(value: Any) -> str:
    """
    >>> number(1e-05), number(0.3), number("random")
    ('1e-05', '0.3', 'random')
    """
    return f"{value:g}" if isinstance(value, float) else str(value)


def ap_text(entry: Entry) -> str:
    if entry.ap is None:
        return f"({entry.highest_ap:.4f})" if entry.highest_ap >= 0 else "-"
    spread = f" ± {entry.ap.deviation:.4f}" if entry.ap.deviation is not None else ""
    return f"{entry.ap.mean:.4f}{spread}"


def behind_text(behind: Difference | None) -> str:
    if behind is None:
        return ""
    known = "one seed each" if behind.verdict == "unknown" else behind.verdict
    return f"{behind.value:+.4f} ({known})"


def status_text(entry: Entry) -> str:
    counts: dict[str, int] = {}
    for outcome in entry.outcomes:
        counts[outcome.status] = counts.get(outcome.status, 0) + 1
    return ", ".join(f"{count} {status}" for status, count in counts.items())


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
