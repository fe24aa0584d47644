"""The report of pre-run checks: every problem, each with its remedy."""

from __future__ import annotations

from dataclasses import dataclass, field

from sdpose.errors import UserError


@dataclass(frozen=True)
class Problem:
    what: str
    remedy: str  # "" where `what` says it

    def __str__(self) -> str:
        remedy = self.remedy.replace("\n", "\n   ")
        text = f"{self.what}\n-> {remedy}" if remedy else self.what
        return text.replace("\n", "\n      ")


@dataclass
class Report:
    """Lines for people. `warnings`: runs, but is probably not intended. `unknown`: could not be
    checked from here, and why."""

    title: str
    fine: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def problem(self, what: str, remedy: str = "") -> None:
        self.problems.append(Problem(what, remedy))

    def error(self, what: str, error: UserError | OSError, remedy: str = "") -> None:
        """Adds an error as a problem: `what`, if that is not "", and its first line; its own remedy
        comes before `remedy`."""
        first, _, rest = str(error).partition("\n")
        lines = [line.strip() for line in rest.splitlines()]
        self.problem(
            f"{what}: {first}" if what else first, "\n".join(filter(None, [*lines, remedy]))
        )

    def summary(self) -> str:
        """All of it: a line that says how many problems there are, then every finding."""
        count = len(self.problems)
        if count:
            head = f"{count} problem{'s' if count > 1 else ''}"
        else:
            head = "nothing is missing"
            if self.unknown:
                head += f", but not all could be seen ({len(self.unknown)} unknown)"
        if self.warnings:
            head += f"; {len(self.warnings)} warning{'s' if len(self.warnings) > 1 else ''}"
        return "\n".join(
            [
                f"{self.title}: {head}",
                *(f"  ok       {text}" for text in self.fine),
                *(f"  warning  {text}" for text in self.warnings),
                *(f"  unknown  {text}" for text in self.unknown),
                *(f"  problem  {problem}" for problem in self.problems),
            ]
        )

    def raise_if_problems(self) -> str:
        """The summary; raises UserError with it if there is any problem."""
        if self.problems:
            raise UserError(self.summary())
        return self.summary()
