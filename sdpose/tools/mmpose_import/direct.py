"""The experiment that a command names: one of ours, or an mmpose 0.x configuration as it is."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sdpose.config.load import dump_yaml, load_document, load_experiment
from sdpose.config.schema import Experiment
from sdpose.errors import UserError
from sdpose.tools.mmpose_import.fence import translate_in_child
from sdpose.tools.mmpose_import.report import Report, with_name_hint

log = logging.getLogger(__name__)

ALLOW = "--allow-unsupported"

# Takes what `load_experiment` takes after the name: overrides, and options of the command line.
Loader = Callable[..., Experiment]


def experiment_loader(exp: str, *, allow_unsupported: bool = False) -> Loader:
    """Reads an experiment's name or file, or a configuration, once; it is resolved by each call.

    What becomes of a configuration's settings is printed on stderr.
    Raises NotSupportedError if it loses a loss and that is not allowed; UserError as
    `load_experiment` and `import_config` do.
    """
    if is_configuration(exp):
        values = _read(Path(exp), allow_unsupported=allow_unsupported)
        return partial(_resolve, values, Path(exp))
    if allow_unsupported:
        raise UserError(f"{ALLOW} is for a configuration of mmpose (.py): '{exp}' is none")
    return partial(load_experiment, exp)


def is_configuration(exp: str) -> bool:
    return Path(exp).suffix == ".py"


@contextmanager
def with_experiment_file(words: Sequence[str], commands: Sequence[str]) -> Iterator[list[str]]:
    """A command line whose configuration is replaced by an experiment's file, for processes that
    each would read it again.

    Args:
        words: `... train CONFIG.py ...`, of `sdpose launch`.
        commands: those that an experiment follows.
    """
    start = next((n for n, word in enumerate(words) if word in commands), len(words))
    place = next((n for n in range(start, len(words)) if is_configuration(words[n])), None)
    if place is None:
        yield list(words)
        return
    path = Path(words[place])
    values = _read(path, allow_unsupported=ALLOW in words[start:])
    with tempfile.TemporaryDirectory(prefix="sdpose-") as folder:
        file = Path(folder, f"{path.stem}.yaml")
        file.write_text(dump_yaml(values), encoding="utf-8")
        yield [
            str(file) if n == place else word
            for n, word in enumerate(words)
            if not (n > start and word == ALLOW)
        ]


def _resolve(
    values: dict[str, Any], path: Path, overrides: Iterable[str] = (), **top_level: str | None
) -> Experiment:
    try:
        return load_document(values, path, overrides, **top_level)
    except UserError as error:
        raise with_name_hint(error, "--set exp_name=NAME") from None


def _read(path: Path, *, allow_unsupported: bool) -> dict[str, Any]:
    translated = translate_in_child(path)
    report = Report.of(path, translated)
    report.check(allow_unsupported=allow_unsupported)
    if os.environ.get("LOCAL_RANK", "0") == "0":  # one of torchrun's processes says it
        log.info(report.summary())
    return dict(translated["experiment"])
