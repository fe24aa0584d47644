"""Figures that are none, and data that the weights have not seen, never get into a version."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from made import Register, write_checkpoint

from sdpose.cli import cli
from sdpose.config import Experiment
from sdpose.errors import UserError
from sdpose.registry import model_names, read_version, summarize
from sdpose.registry.channels import set_channel
from sdpose.registry.documents import document, sealed
from sdpose.registry.layout import index_key, manifest_key
from sdpose.registry.promote import promote
from sdpose.registry.register import register_checkpoint
from sdpose.registry.register_run import register_run
from sdpose.registry.verify import verify
from sdpose.registry.withdraw import withdraw
from sdpose.storage import FileStore, Store, open_store


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ('{"AP": NaN}', "AP: nan"),
        ('{"AP": Infinity}', "AP: inf"),
        ('{"AP": 1e999}', "AP: inf"),
        ('{"AP": 7.5}', "AP: 7.5: allowed are 0..1, and -1 for none"),
        ('{"AP": true}', "AP: True"),
        ('{"AP": 0.5, "dataset_digest": 5}', "`dataset_digest` a text"),
        ('{"AP": 0.5, "settings": [1]}', "`settings` has to be an object"),
        ('{"AP": 0.5, "settings": {"a": NaN}}', "NaN or Infinity"),
        ("{}", "it holds no figure"),
        ("[]", "it holds no figure"),
        ("[" * 100_000, "nested"),
        ("\ud800", "save it as UTF-8"),
    ],
)
def test_a_metrics_file_that_is_none(
    experiment: Experiment, tmp_path: Path, metrics: str, said: str
) -> None:
    checkpoint = write_checkpoint(tmp_path / "best.pth", experiment, 1)
    path, root = tmp_path / "m.json", tmp_path / "registry"
    path.write_bytes(metrics.encode(errors="surrogatepass"))
    command = ["registry", "register", "tiny", str(checkpoint), "--metrics", str(path)]
    result = CliRunner().invoke(cli, [*command, "--registry", str(root)])
    assert isinstance(result.exception, UserError), result.exception
    assert said in str(result.exception)
    assert model_names(open_store(root)) == []


def test_a_champion_without_a_figure_is_in_nobodys_way(store: Store, register: Register) -> None:
    """As f51444b let it through, and then promoted."""
    for seed, ap in enumerate((0.5, 0.6, 0.7), start=1):
        register(seed, ap=ap)
    promote(store, "tiny", 1, "production", approver="kim")
    for metrics in ({"AP": float("nan")}, {"AP": float("inf")}, {"AP": True}, {}):
        poison(store, 1, metrics)
        record = promote(store, "tiny", 2, "production", approver="kim", data_root="/nowhere")
        assert record["allowed"], record["gates"]
        assert "version 1 has no AP" in record["gates"][-1]["reason"]
        for key in list(store.list("models/tiny/channels/production")):
            store.delete(key)
        poison(store, 1, {"AP": 0.5})
        promote(store, "tiny", 1, "production", approver="kim")
    store.put(manifest_key("tiny", 1), b"{}")
    record = promote(store, "tiny", 3, "production", approver="kim")
    assert record["allowed"]
    assert "nothing to compare with" in record["gates"][-1]["reason"]


def poison(store: Store, version: int, metrics: dict[str, object]) -> None:
    """Another manifest under the number, as an earlier sdpose would have written it."""
    content = json.loads(store.read(manifest_key("tiny", version)))
    text = json.dumps(sealed(content | {"metrics": metrics}), indent=2, sort_keys=True)
    store.put(manifest_key("tiny", version), (text + "\n").encode())
    store.delete(index_key("tiny"))


@pytest.mark.parametrize("metrics", [{}, {"AP": -1.0}])
def test_a_candidate_without_a_figure_is_refused(
    store: Store, register: Register, metrics: dict[str, float]
) -> None:
    register(1, metrics=metrics)
    record = promote(store, "tiny", 1, "candidate", approver="kim")
    assert not record["allowed"]
    assert [v["gate"] for v in record["gates"] if not v["passed"]] == ["scored"]


def test_the_data_is_what_the_weights_have_seen(
    store: Store, experiment: Experiment, tmp_path: Path
) -> None:
    checkpoint = write_checkpoint(tmp_path / "best.pth", experiment, 1)
    content = torch.load(checkpoint, weights_only=True)
    content["meta"]["dataset_digest"] = "a" * 64
    torch.save(content, checkpoint)
    said = "was trained on the dataset aaaaaaaaaaaa, and would be registered under .* bbbbbbbbbbbb"

    def register(digest: str) -> int:
        return register_checkpoint(
            "tiny", checkpoint, experiment=experiment, dataset_digest=digest, root=store
        ).version

    with pytest.raises(UserError, match=said):
        register("b" * 64)
    assert list(store.list("")) == []
    assert register("a" * 64) == 1


def test_a_pipeline_registers_no_other_data(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDPOSE_REGISTRY", str(tmp_path / "registry"))
    checkpoint = write_checkpoint(tmp_path / "best.pth", experiment, 1)
    content = torch.load(checkpoint, weights_only=True)
    content["meta"]["dataset_digest"] = "a" * 64
    torch.save(content, checkpoint)
    figures = {"AP": 0.5, "settings": {"bbox_source": "ground truth"}}
    (tmp_path / "results.metrics.json").write_text(json.dumps(figures))
    with pytest.raises(UserError, match="was trained on the dataset aaaaaaaaaaaa"):
        register_run(
            experiment,
            checkpoint=checkpoint,
            trained_as=checkpoint,
            results=tmp_path / "results.json",
            dataset_digest="0" * 64,
            mlflow_run_id="",
            runner="local",
            git_commit="abc",
        )
    assert not (tmp_path / "registry").exists()


def test_no_room_for_the_weights(experiment: Experiment, tmp_path: Path) -> None:
    """A limit of the file size stands for a full disk: both fail the write."""
    checkpoint = write_checkpoint(tmp_path / "best.pth", experiment, 1)
    (tmp_path / "m.json").write_text('{"AP": 0.5}')
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20));"
        "from sdpose.cli import main; main()"
    )
    words = ["registry", "register", "tiny", str(checkpoint), "--metrics", str(tmp_path / "m.json")]
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--registry", str(tmp_path / "registry")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "set TMPDIR to a folder with 5 MB of room" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", ["²", "0", "01", "9" * 5000, "1" * 40, "-1", "1\x1b[2J"])
def test_numbers_that_are_none(number: str, tmp_path: Path) -> None:
    root = ["--registry", str(tmp_path / "registry")]
    for words in (
        ["show", f"m@{number}"],
        ["pull", f"m@{number}", str(tmp_path / "x")],
        ["promote", "m", "--channel", "staging", "--", number],
        ["withdraw", "m", "--reason", "x", "--", number],
    ):
        result = CliRunner().invoke(cli, ["registry", words[0], *root, *words[1:]])
        expected = isinstance(result.exception, UserError | SystemExit)
        assert expected, (words[0], result.exception)
        assert result.exit_code != 0
        assert len(result.output) + len(str(result.exception)) < 8000


def test_an_empty_registry_says_so(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["registry", "list", "q", "--registry", str(tmp_path / "r")])
    assert isinstance(result.exception, UserError)
    assert str(result.exception) == "there is no model 'q'; there are: none: the registry is empty"


def test_names_reach_a_terminal_escaped(register: Register, store: Store, root: str) -> None:
    register(1)
    promote(store, "tiny", 1, "staging", approver="\x1b[2Jkim\x9b", comment="\x1b]0;x\x07")
    for words in (["history", "tiny"], ["history", "tiny", "--json"]):
        shown = CliRunner().invoke(cli, ["registry", *words, "--registry", root]).stdout
        assert "\\u001b[2Jkim\\u009b" in shown
        assert not {"\x1b", "\x9b", "\x07"} & set(shown)
    assert json.loads(shown)[0]["approver"] == "\x1b[2Jkim\x9b"


def test_one_malformed_manifest_does_not_hide_the_others(
    store: Store, register: Register, root: str
) -> None:
    for seed in (1, 2):
        register(seed)
    content = json.loads(store.read(manifest_key("tiny", 1)))
    store.put(manifest_key("tiny", 1), document(sealed(content | {"dataset_digest": 5})))
    store.delete(index_key("tiny"))
    result = CliRunner().invoke(cli, ["registry", "list", "tiny", "--registry", root, "--json"])
    assert result.exit_code == 0, result.exception
    second, first = json.loads(result.stdout)
    assert "malformed: dataset_digest: 5" in first["problem"]
    assert (second["AP"], second["problem"]) == (0.5, None)
    text = CliRunner().invoke(cli, ["registry", "list", "tiny", "--registry", root]).stdout
    assert "malformed: dataset_digest: 5" in text
    with pytest.raises(UserError, match="`sdpose registry withdraw` takes the version out of use"):
        summarize(store, "tiny")


def test_nan_of_an_earlier_manifest_is_null_in_json(tmp_path: Path) -> None:
    old = Path(__file__).with_name("written_by_f51444b")
    shown = CliRunner().invoke(
        cli, ["registry", "show", "poisoned@1", "--registry", str(old), "--json"]
    )
    assert json.loads(shown.stdout)["metrics"] == {"AP": None}
    assert "NaN" not in shown.stdout
    assert isinstance(open_store(old), FileStore)


def test_a_channel_that_was_poisoned_is_cured(store: Store, register: Register) -> None:
    """What f51444b could not get rid of: NaN in production, and its version for good."""
    for seed in (1, 2):
        register(seed)
    poison(store, 1, {"AP": float("nan")})
    set_channel(
        store, read_version(store, "tiny", 1), "production", action="promote", approver="kim"
    )
    (problem,) = verify(store)
    assert problem.uri == store.uri(manifest_key("tiny", 1))
    assert "NaN" in problem.what
    assert "`sdpose registry withdraw` takes the version out of use" in problem.what
    with pytest.raises(UserError, match="production points at it"):
        withdraw(store, "tiny", 1, reason="its AP is no figure", approver="kim")
    assert promote(store, "tiny", 2, "production", approver="kim")["allowed"]
    withdraw(store, "tiny", 1, reason="its AP is no figure", approver="kim")
    assert verify(store) == []
    assert register(1).version == 3  # the same weights, with figures this time
    assert promote(store, "tiny", 3, "production", approver="kim")["allowed"]
