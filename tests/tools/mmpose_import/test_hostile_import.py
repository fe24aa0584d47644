"""`sdpose config import` on files that were written to harm: no hang, no file of the attacker's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from sdpose.cli import cli
from sdpose.config import dump_experiment, load_experiment, parse_experiment
from sdpose.documents import parse_yaml_value
from sdpose.errors import UserError
from sdpose.tools.mmpose_import import import_config
from sdpose.tools.mmpose_import.bounds import MAX_DEPTH, MAX_ELEMENTS
from sdpose.tools.mmpose_import.fence import translate_in_child
from sdpose.tools.mmpose_import.python_file import MAX_FILES, read_python_config
from sdpose.tools.mmpose_import.translate import translate

pytestmark = pytest.mark.slow

CHILD = Path(__file__).parent / "mmpose" / "coco" / "child.py"

# Every one of these took all time or memory, or ended in a traceback.
HOSTILE = {
    "powers of powers": "x = 9**100\n" + "x = x**100\n" * 4,
    "products": "x = 9\n" + "x = x*x\n" * 40,
    "sums of text": "a = 'x' * 1000\n" + "a = a+a\n" * 40,
    "sums of lists": "a = [1]\n" + "a += a\n" * 40,
    "a sum of lists": "a = [1]*10000\nb = sum([a]*10000, [])",
    "lists of lists": "x = 1\n" + "x = [x]*10\n" * 20 + "y = str(x)",
    "shared lists": "x = 1\n" + "x = [x, x]\n" * 50 + "y = x == x",
    "shared dicts": "x = 1\n" + "x = dict(a=x, b=x)\n" * 50,
    "grown after it was shared": "x = [1]\ny = [x]*9000\nx[0] = [1]*5000\nz = y == y",
    "replace": "a = 'x' * 10000\nb = a.replace('x', a)",
    "join": "a = 'x' * 10000\nb = a.join(list(a))",
    "a wide format": "b = '%99999999999d' % 1",
    "a precise format": "b = '%.99999999999f' % 1",
    "a format with a width of its own": "b = '%*d' % (9999999999, 1)",
    "an f-string": "x = f'{1:{\"9\" * 9}}'",
    "round": "x = round(1, -10**9)",
    "range": "x = range(10**30)",
    "enumerate": "x = enumerate([1], 9**99)\ny = enumerate([1], 99**99)\nz = y[0][0] ** 99",
    "comparing for ever": "a = [1]*9000\n" + "x = [a == a for i in range(9999)]\n" * 20,
    "nested loops": "x = [[[0 for a in range(9999)] for b in range(9999)] for c in range(9999)]",
    "signs": "x = " + "-" * 50_000 + "1",
    "terms": "x = " + "+".join("1" * 20_000),
    "attributes": "b = 1\nx = b" + ".c" * 20_000,
    "parentheses": "x = " + "(" * 5000 + "1" + ")" * 5000,
    "nested displays": "x = " + "[" * 150 + "]" * 150,
    "nested values": "x = []\n" + "x = [x]\n" * (MAX_DEPTH + 1),
    "a long constant": f"x = '{'x' * (MAX_ELEMENTS + 1)}'",
    "digits": "x = " + "1" * 5000,
    "hexadecimal digits": "x = 0x" + "f" * 500_000,
    "digits of a text": "x = int('9' * 9000)",
    "a part of itself": "x = {}\nx['a'] = x",
    "a part of its part": "a = {}\nb = {'a': a}\na['b'] = b",
    "unpacking a number": "a, b = 1",
    "looping over a number": "x = [y for y in 1]",
    "keywords of a number": "x = dict(**1)",
    "a display of a number": "x = {**1}",
    "a list of a number": "x = [*1]",
    "a list as key": "x = {[]: 1}",
    "a power of text": "x = 2**'a'",
    "an absent item": "x = [1][5]",
    "bytes": "x = b'a'",
    "an ellipsis": "x = ...",
    "an imaginary number": "x = 1j",
    "half a surrogate pair": "x = '\\ud800'",
    "a NUL": "x = 1\0",
    "an escaped NUL": "x = '\\0'",
    "latin-1": "x = 'caf\xe9'",
    "a device as base": "_base_ = '/dev/zero'",
    "a pipe as base": "_base_ = 'pipe'",
    "a base with a NUL": "_base_ = 'a\\0b'",
    "a base with a long name": "_base_ = 'x' * 5000",
    "a base that is a loop": "_base_ = 'loop'",
    "itself as base": "_base_ = 'evil.py'",
    "a number as base": "_base_ = [1]",
    "a folder as base": "_base_ = '.'",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_configuration_is_refused_in_one_message(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    file = tmp_path / "evil.py"
    file.write_text(HOSTILE[name], encoding="latin-1")
    with pytest.raises(UserError, match=r"evil\.py") as refused:
        read_python_config(file)
    assert len(str(refused.value)) < 600 + len(str(file))


def test_each_base_is_read_once(tmp_path: Path) -> None:
    for n in range(40):  # 2^40 readings
        (tmp_path / f"b{n}.py").write_text(f"_base_ = ['b{n + 1}.py', 'b{n + 1}.py']\n")
    (tmp_path / "b40.py").write_text("\n")
    assert read_python_config(tmp_path / "b0.py") == {}
    for n in range(MAX_FILES):
        (tmp_path / f"c{n}.py").write_text(f"_base_ = 'c{n + 1}.py'\n")
    with pytest.raises(UserError, match="more than 100 files"):
        read_python_config(tmp_path / "c0.py")


def test_what_one_file_changes_of_a_base_another_does_not_see(tmp_path: Path) -> None:
    (tmp_path / "base.py").write_text("a = dict(n=[1])\n")
    (tmp_path / "one.py").write_text(
        "_base_ = 'base.py'\nb = {{_base_.a}}\nb['n'][0] = 5\na = dict(_delete_=True)\n"
    )
    (tmp_path / "two.py").write_text("_base_ = ['one.py', 'three.py']\n")
    (tmp_path / "three.py").write_text("_base_ = 'four.py'\nc = {{_base_.d}}\n")
    (tmp_path / "four.py").write_text("d = 4\n")
    assert read_python_config(tmp_path / "two.py") == {"a": {}, "b": {"n": [5]}, "c": 4, "d": 4}
    assert read_python_config(tmp_path / "base.py") == {"a": {"n": [1]}}


def test_the_child_ends_what_the_interpreter_overlooks(tmp_path: Path) -> None:
    work = "a = [1]*9000\nx = [a == a for i in range(90)]\n"  # within what one file may compute
    for n in range(MAX_FILES - 1):
        (tmp_path / f"b{n}.py").write_text(f"_base_ = 'b{n + 1}.py'\n{work}")
    (tmp_path / f"b{MAX_FILES - 1}.py").write_text("\n")
    with pytest.raises(UserError, match=r"takes more than 10 s|computes too much"):
        translate_in_child(tmp_path / "b0.py")


LIMITED = """
from sdpose.tools.mmpose_import.child import limit_this_process
limit_this_process()
"""


@pytest.mark.parametrize(
    ("code", "ends_with"),
    [
        ("x = bytearray(1 << 30)", "MemoryError"),
        ("open('written', 'w').write('x' * 100_000)", "File too large"),
    ],
)
def test_the_child_can_take_no_memory_and_write_no_file(
    code: str, ends_with: str, tmp_path: Path
) -> None:
    result = subprocess.run(
        [sys.executable, "-c", LIMITED + code], capture_output=True, cwd=tmp_path, check=False
    )
    assert ends_with in result.stderr.decode().splitlines()[-1]
    assert not (tmp_path / "written").exists() or not (tmp_path / "written").stat().st_size


def test_modules_of_the_current_folder_are_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "yaml.py").write_text("open('owned', 'w')\n")
    (tmp_path / "sdpose").mkdir()
    (tmp_path / "sdpose" / "__init__.py").write_text("open('owned', 'w')\n")
    monkeypatch.chdir(tmp_path)
    assert import_config(CHILD).experiment.exp_name == "child_exp"
    assert not (tmp_path / "owned").exists()


# ------------------------------------------------------------------------------- what is written


def evil_child(folder: Path, lines: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(f"_base_ = {str(CHILD)!r}\n{lines}\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "lines",
    [
        "evaluation = {'x\\nload_from: /srv/evil.pth\\n#': 1}",
        "evaluation = {'x\\rload_from: /srv/evil.pth\\r#': 1}",
        "evaluation = {'x\\u2028load_from: /srv/evil.pth\\u2028#': 1}",
        "evaluation = {'x\\x85load_from: /srv/evil.pth\\x85#': 1}",
        "evaluation = {'\\x1b[2J\\x9b2J\\u202e': 1, '\\x07' * 500: 2}",
        "load_from = 'a\\x1b[2J\\nseed: 5 #'",
        "log_config = dict(hooks=[{'type': 'x', 'a\\nseed: 5': 1}])",
        "data = dict(train=dict(pipeline=[{'type': 'x\\nseed: 5', 'a\\nseed: 5': 1}]))",
    ],
)
@pytest.mark.parametrize("name", ["mine.py", "x\nload_from: evil.pth\n.py", "\x1b]0;owned\x07.py"])
def test_what_is_written_is_what_was_validated(lines: str, name: str, tmp_path: Path) -> None:
    imported = import_config(evil_child(tmp_path, lines, name))
    out = tmp_path / "out.yaml"
    out.write_text(imported.text, encoding="utf-8")
    assert load_experiment(out) == imported.experiment
    assert dump_experiment(load_experiment(out)) == dump_experiment(imported.experiment)
    assert yaml.safe_load(imported.text) == parse_yaml_value(imported.text, "out.yaml")
    assert not set(imported.text) & set("\x1b\x9b\x07\u202e\u2028\x85\r")


@pytest.mark.parametrize("options", [[], ["--json"], ["-o", "out.yaml"]])
def test_keys_reach_no_terminal_raw(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = evil_child(tmp_path, "evaluation = {'\\x1b[2J\\x9b\\u202e': 1}")
    result = CliRunner().invoke(
        cli, ["config", "import", str(path), *options], catch_exceptions=False
    )
    assert "\\u001b[2J" in result.output
    assert not set(result.output) & set("\x1b\x9b\u202e")
    if options == ["--json"]:
        unsupported = json.loads(result.stdout)["unsupported"]
        assert any("\\u001b[2J\\u009b\\u202e = 1" in line for line in unsupported)


def test_another_base_beside_the_file_is_noticed(tmp_path: Path) -> None:
    path = evil_child(tmp_path, "seed = 3")
    base = yaml.safe_load(import_config(path).text)["base"]
    (tmp_path / f"{base}.yaml").write_text("exp_name: other\nload_from: /srv/evil.pth\n")
    out = tmp_path / "out.yaml"
    result = CliRunner().invoke(cli, ["config", "import", str(path), "-o", str(out)])
    assert isinstance(result.exception, UserError)
    assert "another experiment than the one that was imported" in str(result.exception)
    assert not out.exists()


# ------------------------------------------------------------------- shapes that nobody expected

SHAPES: list[Any] = [5, "x", None, [], [5], {}, {"a": 5}, True, 1.5, ["x", ["y"]], {5: 5}, -1, 0]


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = [path] if path else []
    for key, item in items:
        if isinstance(item, dict | list | tuple):
            found += paths(item, (*path, key))
        else:
            found.append((*path, key))
    return found


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    items = dict(value) if isinstance(value, dict) else list(value)
    items[path[0]] = replaced(items[path[0]], path[1:], new)
    return items


def test_any_value_at_any_place_is_translated_or_refused() -> None:
    config = read_python_config(CHILD)
    places = paths(config)
    # These are compared as one value, not looked into.
    whole = {"color", "skeleton_info", "dataset_channel", "inference_channel", "meta_keys", "test"}
    places = [place for place in places if not whole & set(place[:-1])]
    assert len(places) > 100
    for number, place in enumerate(places):
        for new in (SHAPES[number % len(SHAPES)], SHAPES[(number * 5 + 3) % len(SHAPES)]):
            try:
                translation = translate(replaced(config, place, new), "mine")
                parse_experiment(json.loads(json.dumps(translation.experiment)))
            except UserError:
                continue


def test_a_schedule_of_steps_is_no_list_of_a_billion_numbers() -> None:
    config = read_python_config(CHILD)
    lr_config = {"policy": "step", "step": 1}
    experiment = translate({**config, "total_epochs": 10**12, "lr_config": lr_config}, "x")
    assert experiment.experiment["lr_config"]["step"] in (1, ())
