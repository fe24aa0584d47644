"""The readers of YAML, JSON and configurations take any text: a value or a `UserError`.

A few seconds here; `SDPOSE_FUZZ_EXAMPLES=100000 pytest tests/config/test_fuzz.py --timeout 0` for
hours.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdpose.config import dump_experiment, load_experiment, parse_experiment
from sdpose.documents import DocumentError, parse_json, parse_yaml_value
from sdpose.errors import UserError
from sdpose.printable import printable, printable_line
from sdpose.tools.mmpose_import.python_file import read_python_config
from sdpose.tools.mmpose_import.translate import translate

EXAMPLES = int(os.environ.get("SDPOSE_FUZZ_EXAMPLES", "150"))
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

EXPERIMENT = dump_experiment(load_experiment("quickstart"))
CONFIG = (
    Path(__file__).parents[1] / "tools/mmpose_import/mmpose/coco/sdpose_s_v1_maskedkd.py"
).read_text()

# ------------------------------------------------------------------------------------- documents

yaml_tokens = st.sampled_from(
    [
        *(
            " ",
            "\n",
            "\n  ",
            "\n    ",
            "- ",
            ": ",
            "? ",
            ", ",
            "[",
            "]",
            "{",
            "}",
            "&a ",
            "*a",
            "#",
        ),
        *(
            "&b ",
            "*b",
            "<<: ",
            "!!int ",
            "!!float ",
            "!!str ",
            "!!bool ",
            "!!null ",
            "!!set ",
            "!x ",
        ),
        *(
            "!!timestamp ",
            "!!binary ",
            "!!omap ",
            "!!python/name:os.system ",
            "---\n",
            "...\n",
            "%YAML",
        ),
        *("|\n  x\n", ">-\n  x\n", "'", '"', "\\", '"\\x00"', '"\\ud800"', "\t", "\ufeff", "\x85"),
        *("1", "-", ".", "e5", "0x", "0b", "0o7", "1:30", "_", "~", "=", "<<", "yes", "on", ".inf"),
        *(
            "2001-99-99",
            "2001-01-01T00:00:00+99:99",
            "exp_name",
            "model",
            "seed",
            "optimizer",
            "lr",
        ),
    ]
)
json_tokens = st.sampled_from(
    [
        *(
            "[",
            "]",
            "{",
            "}",
            ",",
            ":",
            '"',
            '"a"',
            "\\",
            '"\\ud800"',
            '"\\u0000"',
            "1",
            "-",
            "e999",
        ),
        *("NaN", "Infinity", "null", "true", " ", "\n", "0", ".", "\x00", "\ufeff", "é", "9" * 50),
    ]
)


def texts(tokens: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(st.one_of(tokens, st.text(max_size=3)), max_size=40).map("".join)


def changed(text: str, tokens: st.SearchStrategy[str]) -> st.SearchStrategy[bytes]:
    """The text with a few places replaced, as bytes: not always UTF-8."""
    pieces = st.one_of(
        tokens.map(lambda token: token.encode("utf-8", "surrogatepass")), st.binary(max_size=3)
    )
    edit = st.tuples(st.integers(0, len(text)), st.integers(0, 20), pieces)

    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        data = text.encode()
        for at, length, new in edits:
            data = data[:at] + new + data[at + length :]
        return data

    return st.lists(edit, min_size=1, max_size=4).map(apply)


@fuzz
@given(st.one_of(texts(yaml_tokens), st.binary(max_size=60), changed(EXPERIMENT, yaml_tokens)))
def test_any_yaml_is_read_or_refused(text: str | bytes) -> None:
    try:
        value = parse_yaml_value(text, "x.yaml")
    except DocumentError as error:
        check_message(error)
        return
    json.dumps(value, ensure_ascii=False, default=_no_other).encode()


@fuzz
@given(changed(EXPERIMENT, yaml_tokens))
def test_any_experiment_is_read_or_refused(document: bytes) -> None:
    try:
        experiment = parse_experiment(document, "x.yaml")
    except UserError as error:
        check_message(error)
        return
    assert dump_experiment(parse_experiment(dump_experiment(experiment))) == dump_experiment(
        experiment
    )


@fuzz
@given(st.one_of(texts(json_tokens), st.binary(max_size=60)), st.booleans())
def test_any_json_is_read_or_refused(text: str | bytes, finite: bool) -> None:
    try:
        value = parse_json(text, "x.json", finite=finite)
    except DocumentError as error:
        check_message(error)
        return
    json.dumps(value, ensure_ascii=False, allow_nan=not finite).encode()


@fuzz
@given(st.text(alphabet=st.characters(codec=None)))
def test_any_text_can_be_shown(text: str) -> None:
    printable(text).encode()
    assert len(printable_line(text).splitlines()) <= 1
    assert printable(printable(text)) == printable(text)


def _no_other(value: object) -> None:
    raise AssertionError(f"not plain data: {value!r}")


def check_message(error: UserError) -> None:
    shown = printable(error)
    shown.encode()
    assert len(shown) < 20_000


# -------------------------------------------------------------------------------- configurations

names = st.sampled_from(["a", "b", "c", "_base_", "x"])
atoms = st.one_of(
    names,
    st.sampled_from(
        [
            *(
                "0",
                "1",
                "-1",
                "2.5",
                "1e308",
                "9**99",
                "'x'",
                "'x'*9999",
                "''",
                "None",
                "True",
                "[]",
            ),
            *(
                "{}",
                "()",
                "b'x'",
                "...",
                "1j",
                "'%9d'",
                "'%*d'",
                "'{}'",
                "'\\0'",
                "'\\ud800'",
                "[1]*9999",
            ),
        ]
    ),
)


def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    operators = st.sampled_from(
        [*"+-*/%<>", "**", "//", "==", "!=", " in ", " is ", " and ", " or ", "|", "@", "<<"]
    )
    functions = st.sampled_from(
        [
            *(
                "dict",
                "list",
                "tuple",
                "int",
                "float",
                "str",
                "bool",
                "len",
                "min",
                "max",
                "sum",
                "abs",
            ),
            *("round", "sorted", "zip", "enumerate", "range", "eval", "open", "getattr", "x.y"),
        ]
    )
    methods = st.sampled_from(
        ["lower", "replace", "join", "split", "get", "items", "keys", "index", "copy", "__class__"]
    )
    return st.one_of(
        st.tuples(inner, operators, inner).map(lambda t: f"({t[0]}{t[1]}{t[2]})"),
        st.tuples(functions, st.lists(inner, max_size=3)).map(
            lambda t: f"{t[0]}({', '.join(t[1])})"
        ),
        st.tuples(inner, methods, st.lists(inner, max_size=2)).map(
            lambda t: f"({t[0]}).{t[1]}({', '.join(t[2])})"
        ),
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.tuples(inner, inner).map(lambda t: f"{{{t[0]}: {t[1]}}}"),
        st.tuples(inner, inner).map(lambda t: f"({t[0]})[{t[1]}]"),
        st.tuples(inner, inner).map(lambda t: f"({t[0]})[{t[1]}:]"),
        st.tuples(inner, names, inner).map(lambda t: f"[{t[0]} for {t[1]} in {t[2]}]"),
        st.tuples(inner, inner, inner).map(lambda t: f"({t[0]} if {t[1]} else {t[2]})"),
        inner.map(lambda value: f"dict(a={value}, **{value})"),
        inner.map(lambda value: f"[*{value}]"),
        inner.map(lambda value: f"(not {value})"),
        inner.map(lambda value: "{{_base_." + value + "}}"),
    )


expressions = st.recursive(atoms, larger, max_leaves=8)
statements = st.one_of(
    st.tuples(names, expressions).map(lambda t: f"{t[0]} = {t[1]}"),
    st.tuples(names, st.sampled_from("+-*"), expressions).map(lambda t: f"{t[0]} {t[1]}= {t[2]}"),
    st.tuples(names, expressions, expressions).map(lambda t: f"{t[0]}[{t[1]}] = {t[2]}"),
    st.tuples(names, names, expressions).map(lambda t: f"{t[0]}, {t[1]} = {t[2]}"),
    expressions,
)


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    return tmp_path / "evil.py"


@fuzz
@given(st.lists(statements, min_size=1, max_size=8), st.integers(1, 30))
def test_any_settings_are_read_or_refused(evil: Path, lines: list[str], times: int) -> None:
    evil.write_text("a = 1\nb = [a]\nc = {'a': b}\n" + "\n".join(lines * times))
    try:
        config = read_python_config(evil)
    except UserError as error:
        check_message(error)
        return
    json.dumps([[str(key), repr(value)] for key, value in config.items()]).encode()


python_tokens = st.sampled_from(
    [
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "=",
        "dict(",
        "'",
        "\n",
        "None",
        "0",
        "-",
        "*",
        "**",
        "x",
        ",",
        ":",
    ]
)


@fuzz
@given(changed(CONFIG, python_tokens))
def test_any_change_of_a_configuration_is_translated_or_refused(evil: Path, text: bytes) -> None:
    evil.write_bytes(text)
    try:
        translation = translate(read_python_config(evil), "evil")
        experiment = parse_experiment(translation.experiment, "evil.py")
    except UserError as error:
        check_message(error)
        return
    json.dumps([translation.experiment, translation.unsupported, translation.built_in]).encode()
    dump_experiment(experiment).encode()
