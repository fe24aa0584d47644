"""Shell completion: of commands and options by click, of experiments' names by us."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem, get_completion_class

VARIABLE = "_SDPOSE_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL.

    \b
    bash, in ~/.bashrc:     eval "$(sdpose completion bash)"
    zsh, in ~/.zshrc:       eval "$(sdpose completion zsh)"
    fish:                   sdpose completion fish > ~/.config/fish/completions/sdpose.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None  # click knows the three
    root = click.get_current_context().find_root().command
    click.echo(kind(root, {}, "sdpose", VARIABLE).source())


def complete_experiment(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names in pipelines/experiments; of a path, the shell's own files."""
    from sdpose.config import experiments_dir

    if "/" in incomplete or incomplete.endswith((".yaml", ".yml")):
        return [CompletionItem(incomplete, type="file")]
    names = sorted(path.stem for path in experiments_dir().glob("*.yaml"))
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]
