"""Where every setting of a configuration has gone, and what is refused because of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdpose.errors import UserError


def with_name_hint(error: UserError, option: str) -> UserError:
    """The error; if it is about the name, which may be the file's, with what gives another one."""
    if " exp_name: " not in str(error):
        return error
    separator = "\n  " if "\n" in str(error) else "; "
    return UserError(f"{error}{separator}give it another name: {option}")


class NotSupportedError(UserError):
    """The experiment would be another one than the configuration describes."""

    exit_code = 3


@dataclass(frozen=True)
class Report:
    """The lists of `Translation`, and those names of the file that are no settings."""

    source: Path
    taken: list[str]
    built_in: list[str]
    unsupported: list[str]
    lost_losses: list[str]
    added: list[str]
    variables: list[str]
    """Top-level names that mmpose does not read either (helpers of the file)."""

    @classmethod
    def of(cls, source: Path, translated: dict[str, Any]) -> Report:
        lists = {name: translated[name] for name in cls.__annotations__ if name != "source"}
        return cls(source, **lists)

    def check(self, *, allow_unsupported: bool = False, strict: bool = False) -> None:
        """Raises NotSupportedError for a lost loss, or (strict) for anything that is lost."""
        if strict and self.unsupported:
            raise NotSupportedError(
                "\n  ".join([f"{self.source}: not everything is supported:", *self.unsupported])
            )
        if self.lost_losses and not allow_unsupported:
            lines = [
                f"{self.source}: a loss is not supported; without it this is another experiment:",
                *self.lost_losses,
                "remove it from the file, or leave it out with --allow-unsupported",
            ]
            raise NotSupportedError("\n  ".join(lines))

    def summary(self) -> str:
        """A few lines: how much was taken, and all that was not."""
        counts = (
            f"{self.source}: an mmpose configuration: {len(self.taken)} settings taken, "
            f"{len(self.built_in)} built in, {len(self.unsupported)} not supported"
        )
        return "\n  ".join(
            [
                counts,
                *(f"not supported: {line}" for line in self.unsupported),
                *(f"added: {line}" for line in self.added),
            ]
        )
