"""Names of others reach a terminal with their control characters escaped."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

import sdpose.cli
from pipelines.console import say as submit_say
from sdpose.cli.text import answer, echo, format_rows, printable, printable_line
from sdpose.outputs.console import ConsoleSink


def test_no_character_that_a_terminal_obeys_is_left() -> None:
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    shown = printable(everything)
    controls = {c for c in shown if unicodedata.category(c) in {"Cc", "Cs"}}
    assert controls == {"\n", "\t"}
    assert not {unicodedata.bidirectional(c) for c in shown} & {
        *("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    }
    shown.encode()
    assert len(printable_line(everything).splitlines()) == 1


def test_what_people_read_is_left_as_it_is() -> None:
    text = "한글 é ñ 😀 👩\u200d🚀\n\tnext"
    assert printable(text) == text


def test_json_stays_the_same_document(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"name\x1b[2J": "\x9b2J \u202e \x7f 한글\n"}
    answer("", value, as_json=True)
    printed = capsys.readouterr().out
    assert json.loads(printed) == value
    assert not set(printed) & set("\x1b\x9b\u202e\x7f")


def test_a_cell_of_a_table_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    echo(format_rows(["name", "by"], [["v1\n9 forged", "a\x1b[1A"]]))
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_file_names_in_errors_are_escaped(tmp_path: Path) -> None:
    name = os.fsdecode(b"evil\x1b]0;title\x07\xff.yaml")  # not UTF-8: it could not be printed
    result = subprocess.run(
        [sys.executable, "-m", "sdpose", "config", "show", str(tmp_path / name)],
        capture_output=True,
        check=False,
    )
    assert result.returncode == 2, result.stderr
    assert not set(result.stderr) & {0x1B, 0x07, 0xFF}
    assert rb"evil\u001b]0;title\u0007\udcff.yaml" in result.stderr


@pytest.mark.parametrize("say", [ConsoleSink().say, submit_say])
def test_lines_of_a_run_are_escaped(
    say: Callable[[str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    say("image \x1b]0;owned\x07\udcff.jpg is left out\nnext")
    sys.stdout.flush()
    assert capfd.readouterr().out == "image \\u001b]0;owned\\u0007\\udcff.jpg is left out\nnext\n"


def test_a_stream_takes_all_that_is_printable() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    stream.write(printable(os.fsdecode(bytes(range(1, 256)))))
    stream.flush()


def test_every_command_prints_through_echo() -> None:
    folder = Path(sdpose.cli.__file__).parent
    direct = [
        f"{path.name}: {line.strip()}"
        for path in sorted(folder.rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"\bclick\.echo\b|^\s+print\(", line) and "printable(" not in line
    ]
    # the shell's completion script is ours; registry's own lines escape where they are printed
    assert [line for line in direct if not line.startswith(("completion.py", "store.py"))] == []
