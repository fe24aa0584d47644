"""No command, argument, option, default or environment variable of a command line is lost.

Help texts are left out: their wording may change.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
from snapshots.snapshot import assert_unchanged

from components.launcher.__main__ import cli as launcher
from pipelines.submit import cancel, resume, submit
from sdpose.cli import cli as sdpose

PROGRAMS: dict[str, click.Command] = {
    "sdpose": sdpose,
    "submit.py": submit,
    "submit.py resume": resume,
    "submit.py cancel": cancel,
    "python -m components.launcher": launcher,
}


def commands(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in sorted(command.commands.items()):
            yield from commands(f"{path} {name}", inner)


# Of a type: what limits its values.
LIMITS = ("exists", "min", "max", "min_open", "max_open")


def type_of(info: dict[str, Any]) -> str:
    """As `integer range(min=1)` or `choice(a, b)`."""
    set_limits = {name: info.get(name) for name in LIMITS}
    limits = [f"{k}={v}" for k, v in set_limits.items() if v is not None and v is not False]
    limits += info.get("choices", ())
    return f"{info['name']}({', '.join(map(str, limits))})" if limits else str(info["name"])


def described(parameter: click.Parameter, context: click.Context) -> str:
    info = parameter.to_info_dict()
    words = [", ".join((*info["opts"], *info["secondary_opts"]))]
    if isinstance(parameter, click.Argument):
        words = [f"argument {parameter.make_metavar(context)}"]
    elif parameter.metavar:
        words.append(parameter.metavar)
    words.append("flag" if info.get("is_flag") else type_of(info["type"]))
    words += [name for name in ("required", "multiple", "hidden", "count") if info.get(name)]
    if info["nargs"] != 1:
        words.append(f"nargs={info['nargs']}")
    if info["envvar"]:
        words.append(f"${info['envvar']}")
    if info["default"] is not None and info["default"] is not False:
        words.append(f"default={info['default']!r}")
    return "  ".join(words)


def test_command_lines() -> None:
    lines = []
    for program, root in PROGRAMS.items():
        for path, command in commands(program, root):
            context = click.Context(command, info_name=path)
            lines.append(f"{path}  [help: {', '.join(context.help_option_names)}]")
            arguments = [p for p in command.params if isinstance(p, click.Argument)]
            options = [p for p in command.params if not isinstance(p, click.Argument)]
            lines += [f"    {described(each, context)}" for each in arguments]
            lines += sorted(f"    {described(each, context)}" for each in options)
    assert_unchanged("command_lines.txt", "\n".join(lines) + "\n")
