"""What a preflight has found: everything, not the first thing."""

from __future__ import annotations

from dataclasses import dataclass, field

from sdpose.errors import UserError


@dataclass
class Report:
    """Lines for people. `unknown` is what could not be looked at from here, and why."""

    fine: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def problem(self, what: str, remedy: str) -> None:
        self.problems.append(f"{what}\n      -> {remedy}")

    def __str__(self) -> str:
        lines = [f"  ok       {text}" for text in self.fine]
        lines += [f"  unknown  {text}" for text in self.unknown]
        lines += [f"  problem  {text}" for text in self.problems]
        return "\n".join(lines)

    def settle(self) -> str:
        """The whole text; raises UserError with it if there is any problem."""
        if not self.problems:
            rest = (
                f", but not all could be seen ({len(self.unknown)} unknown)" if self.unknown else ""
            )
            return f"preflight: nothing is missing{rest}\n{self}"
        count = len(self.problems)
        raise UserError(f"preflight: {count} problem{'s' if count > 1 else ''}\n{self}")
