"""Whatever a document's bytes are, it is read within bounds or refused in one message."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sdpose.config import dump_experiment, experiment_digest, load_experiment, parse_experiment
from sdpose.config.document import parse_yaml
from sdpose.documents import (
    MAX_DEPTH,
    DocumentError,
    describe,
    parse_json,
    parse_yaml_value,
    read_json,
    read_text,
)
from sdpose.errors import UserError
from sdpose.sweeps import expand, load_sweep

# Each alias stands for ten of the one before: 10^12 values.
LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n + 1}: &a{n + 1} [{','.join([f'*a{n}'] * 10)}]\n" for n in range(11)
)
YAML = {
    "aliases of aliases": (LAUGHS, "aliases counted"),
    "a long text in aliases": (
        f"s: &s '{'x' * 900_000}'\nl: [{','.join(['*s'] * 1000)}]",
        "aliases counted",
    ),
    "merges of merges": (
        "a0: &a0 {a: 1, b: 1, c: 1, d: 1}\n"
        + "".join(
            f"a{n + 1}: &a{n + 1} {{<<: [{','.join([f'*a{n}'] * 10)}]}}\n" for n in range(11)
        ),
        "aliases counted",
    ),
    "an alias of itself": ("a: &a [*a]", "part of itself"),
    "a chain of aliases": (
        "a: &a0 [1]\n" + "".join(f"k{n}: &a{n + 1} [*a{n}]\n" for n in range(100)),
        "deeper than 64",
    ),
    "nested lists": ("[" * 3000 + "]" * 3000, "deeper than 64"),
    "nested dashes": ("- " * 100_000, "deeper than 64"),
    "nested maps": ("{a: " * 3000 + "1" + "}" * 3000, "deeper than 64"),
    "nested keys": ("? " * 3000, "deeper than 64"),
    "too many values": ("- 1\n" * 60_000, "more than 50000 values"),
    "too long": ("#" * 2_000_000, "larger than 1 MiB"),
    "digits": ("seed: " + "1" * 5000, "5000 characters"),
    "hexadecimal digits": ("seed: 0x" + "f" * 500_000, "500002 characters"),
    "base 60": ("seed: 1" + ":59" * 2000, "characters"),
    "no digits": ("seed: 0x_", "cannot be read as int"),
    "an empty number": ("seed: !!int ''", "cannot be read as int"),
    "a boolean that is none": ("seed: !!bool x", "cannot be read as bool"),
    "a list as key": ("? [a]\n: 1", "key must be one word"),
    "a mapping as key": ("? {a: 1}\n: 1", "key must be one word"),
    "keys of one hash value": (
        "".join(f"{n * (2**61 - 1)}: 1\n" for n in range(2, 20_000)),
        "too many digits",
    ),
    "a key twice": ("a: 1\na: 2", "given twice"),
    "a merge of no mapping": ("<<: 5", "expected a mapping"),
    "an object of Python": ("!!python/object/apply:os.system [id]", "could not determine"),
    "a date by its tag": ("a: !!timestamp 2001-99-99", "could not determine"),
    "a NUL": ("a: 1\0", "special characters"),
    "an escaped NUL": ('a: "\\0"', "NUL"),
    "half a surrogate pair": ('a: "\\ud800"', "surrogate"),
    "two documents": ("a: 1\n---\nb: 1", "single document"),
    "latin-1": ("exp_name: café".encode("latin-1"), "save it as UTF-8"),
    "half a utf-16": ("exp_name: a".encode("utf-16")[:-1], "says UTF-16"),
    "cp949": ("exp_name: 창고 실험".encode("cp949"), "looks like cp949"),
}


@pytest.mark.parametrize("name", YAML)
def test_hostile_yaml_is_refused_in_one_message(name: str) -> None:
    text, reason = YAML[name]
    with pytest.raises(DocumentError) as refused:
        parse_yaml_value(text, "evil.yaml")
    message = str(refused.value)
    assert message.startswith("evil.yaml: ")
    assert reason in message
    assert len(message) < 500


@pytest.mark.parametrize("name", ["aliases of aliases", "nested maps", "digits", "latin-1"])
def test_every_reader_of_experiments_has_the_bounds(name: str, tmp_path: Path) -> None:
    text, reason = YAML[name]
    path = tmp_path / "evil.yaml"
    path.write_bytes(
        text
        if isinstance(text, bytes)
        else f"exp_name: x\n{text}".replace("\n{", "\nseed: {").encode()
    )
    with pytest.raises(UserError, match=reason):
        load_experiment(path)
    if isinstance(text, str):
        with pytest.raises(UserError, match=reason):
            load_experiment("quickstart", [f"seed={text}"])
        with pytest.raises(UserError, match=reason):
            parse_experiment(text)


def test_a_sweep_is_counted_before_it_is_made(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    grid = "".join(f"  key{n}: [{', '.join(map(str, range(100)))}]\n" for n in range(30))
    path.write_text(f"name: s\nbase: quickstart\ngrid:\n{grid}seeds: [1, 2]\n")
    with pytest.raises(UserError, match=f"{2 * 100**30} trials are more than limits"):
        expand(load_sweep(str(path)))
    path.write_text(path.read_text() + "limits: {trials: 1000000000}\n")
    with pytest.raises(UserError, match=r"limits\.trials"):
        load_sweep(str(path))


def test_what_people_write_is_read() -> None:
    document = parse_yaml(
        "\ufeffexp_name: 2026-11-30\nlr: 1e-5\nequals: =\n"
        "base: &base {a: 1, b: 2}\nmine: {<<: *base, b: 3}\nboth: {<<: [*base, {c: 4}]}\n",
        "mine.yaml",
    )
    assert document == {
        "exp_name": "2026-11-30",  # text; the date would be refused as a name
        "lr": 1e-5,
        "equals": "=",
        "base": {"a": 1, "b": 2},
        "mine": {"a": 1, "b": 3},
        "both": {"a": 1, "b": 2, "c": 4},
    }


def test_a_name_that_looks_like_a_date_travels() -> None:
    experiment = load_experiment("quickstart", ["exp_name=2026-11-30"])
    assert parse_experiment(dump_experiment(experiment)) == experiment
    assert len(experiment_digest(experiment)) == 64


def test_a_message_names_few_of_many_problems() -> None:
    text = "exp_name: x\n" + "".join(f"unknown_{n}: 1\n" for n in range(5000))
    with pytest.raises(UserError) as refused:
        parse_experiment(text)
    message = str(refused.value)
    assert "5000 problems" in message
    assert "and 4980 more" in message
    assert message.count("\n") == 21


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "deeper than 64"),
        ('{"a":' * 100_000, "deeper than 64"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "deeper than 64"),
        ("1" * 5000, "5000 digits"),
        ("[-" + "1" * 101 + "]", "digits"),
        ('{"a"', "not valid JSON"),
        ("", "not valid JSON"),
        (b"\xff\xfe1", "says UTF-16"),
        (b'"\xe9"', "save it as UTF-8"),
        ('"\\ud800"', "not valid JSON"),
    ],
)
def test_hostile_json_is_refused_in_one_message(text: bytes | str, reason: str) -> None:
    with pytest.raises(DocumentError, match=reason) as refused:
        parse_json(text, "evil.json")
    assert str(refused.value).startswith("evil.json: ")


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"AP": -1e999}'])
def test_numbers_that_are_none_are_refused_where_they_do_harm(text: str) -> None:
    parse_json(text, "metrics.json")
    with pytest.raises(DocumentError, match=r"metrics\.json"):
        parse_json(text, "metrics.json", finite=True)


def test_text_is_read_in_every_encoding_that_its_first_bytes_name() -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        assert parse_yaml_value("a: 창고".encode(encoding), "x") == {"a": "창고"}
        assert parse_json('{"a": "창고"}'.encode(encoding), "x") == {"a": "창고"}


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp949", "# 창고 실험\nexp_name: q"),
        ("cp932", "# そうこの写真\nexp_name: q"),
        ("cp1252", "# café, Größe\nexp_name: q"),
    ],
)
def test_another_encoding_is_named_with_the_command_that_converts_it(
    encoding: str, text: str
) -> None:
    with pytest.raises(DocumentError, match=f"iconv -f {encoding} -t utf-8"):
        parse_yaml_value(text.encode(encoding), "mine.yaml")


def test_json_that_is_right_is_read() -> None:
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse_json('\ufeff{"a": [1, 2.5, "\\ud83d\\ude00"]}', "x") == {"a": [1, 2.5, "😀"]}
    parse_json(deep, "x", finite=True)


def test_only_regular_files_of_a_size_are_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(1 << 40)
    for path in (pipe, Path("/dev/zero"), tmp_path):
        with pytest.raises(DocumentError, match=r"not a regular file|Is a directory"):
            read_json(path)
    with pytest.raises(DocumentError, match="larger than 16 MiB"):
        read_json(large)
    for name in ("absent", "a\0b", "x" * 5000):
        with pytest.raises(DocumentError):
            read_text(tmp_path / name)


@pytest.mark.parametrize("value", [["x" * 10**6], "x" * 10**6, {n: n for n in range(10**5)}, 9**99])
def test_a_described_value_is_short(value: object) -> None:
    assert len(describe(value)) < 80
