"""Who signs what, and by which options and variables: commands, Python, the steps of a pipeline."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made import Register, with_promotion, write_checkpoint

import sdpose
from sdpose.cli import main
from sdpose.config import Experiment
from sdpose.errors import UserError
from sdpose.registry import pull, read_version
from sdpose.registry.channels import current, history, sign
from sdpose.registry.documents import SEAL, document, sealed
from sdpose.registry.layout import history_key, manifest_key, pointer_key, signature_key
from sdpose.registry.promote import promote, promote_run, rollback
from sdpose.registry.register_run import read_summary, register_run
from sdpose.registry.rollback_protection import OlderPointerError
from sdpose.registry.signatures import SignatureError, Signer, Verifier
from sdpose.registry.verify import verify
from sdpose.storage import Store

CHANNEL = "production"
POINTER = pointer_key("tiny", CHANNEL)

pytestmark = pytest.mark.usefixtures("cache")
only_files = pytest.mark.parametrize("root", ["file"], indirect=True)


@only_files
def test_a_channel_is_signed_later(
    store: Store,
    register: Register,
    signer: Signer,
    verifier: Verifier,
    keys: tuple[Path, Path],
    other_keys: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    versions = [register(seed, ap=0.5 + seed / 10) for seed in (1, 2)]
    for version in (1, 2):
        promote(store, "tiny", version, CHANNEL, approver="kim")
    with pytest.raises(SignatureError, match="`sdpose registry sign tiny@production"):
        pull(store, "tiny@production", tmp_path / "out", verifier)
    with pytest.raises(UserError, match="is not signed; `sdpose registry sign tiny@production"):
        promote(store, "tiny", 2, CHANNEL, approver="kim", signer=signer)
    for version in versions:
        signer.sign(store, version)
    record = sign(store, versions[1], CHANNEL, signer=signer, approver="lee")
    assert (record["generation"], record["action"], record["version"]) == (3, "sign", 2)
    assert pull(store, "tiny@production", tmp_path / "out", verifier).version.version == 2
    assert verify(store, verifier=verifier) == []
    assert [r["generation"] for r in history(store, "tiny", CHANNEL, verifier)] == [1, 2, 3]
    # Signing is no move: going back goes to the version before.
    back = rollback(store, "tiny", CHANNEL, approver="lee", signer=signer, verifier=verifier)
    assert (back["version"], back["generation"]) == (1, 4)
    # Another key, from now on.
    private, public = other_keys
    for version in versions:
        Signer(private).sign(store, version)
    sign(store, versions[0], CHANNEL, signer=Signer(private), approver="lee")
    assert verify(store, verifier=Verifier(public)) == []
    assert verify(store, verifier=verifier) != []
    # After an older pointer was put back, it comes after everything that there was.
    store.put(POINTER, store.read(history_key("tiny", CHANNEL, 3)))
    record = sign(store, versions[1], CHANNEL, signer=Signer(private), approver="lee")
    assert record["generation"] == 6
    signed_by = Verifier(public)
    assert verify(store, verifier=signed_by) == []
    assert pull(store, "tiny@production", tmp_path / "out", signed_by).version.version == 2


@only_files
def test_who_demands_signatures_writes_none_that_is_refused(
    store: Store,
    register: Register,
    signer: Signer,
    verifier: Verifier,
    other_keys: tuple[Path, Path],
    experiment: Experiment,
) -> None:
    strict = with_promotion(experiment, min_ap=0.9)
    register(1, signer=signer)
    register(2)
    register(3, ap=0.1, signer=signer, experiment=strict)

    def attempt(version: int, key: Signer | None) -> Any:
        return promote(
            store, "tiny", version, CHANNEL, approver="kim", signer=key, verifier=verifier
        )

    with pytest.raises(UserError, match="give --sign KEY"):
        attempt(1, None)
    with pytest.raises(SignatureError, match="was not signed with the key"):
        attempt(1, Signer(other_keys[0]))
    with pytest.raises(SignatureError, match="tiny version 2 is not signed"):
        attempt(2, signer)
    assert current(store, "tiny", CHANNEL) is None
    refused = attempt(3, signer)
    assert not refused["allowed"]
    verifier.check_record(refused)


@only_files
def test_figures_of_the_present_version_cannot_be_lowered(
    store: Store,
    register: Register,
    move: Callable[..., Any],
    signer: Signer,
    verifier: Verifier,
    experiment: Experiment,
) -> None:
    strict = with_promotion(experiment, margin=0.01)
    for seed, ap in ((1, 0.8), (2, 0.4)):
        register(seed, ap=ap, signer=signer, experiment=strict)
    move(1)
    key = manifest_key("tiny", 1)
    manifest = json.loads(store.read(key))
    del manifest[SEAL]
    store.put(key, document(sealed(manifest | {"metrics": {"AP": 0.1}})))
    store.delete(signature_key("tiny", 1))
    with pytest.raises(SignatureError, match="tiny version 1 is not signed"):
        promote(store, "tiny", 2, CHANNEL, approver="kim", signer=signer, verifier=verifier)
    assert current(store, "tiny", CHANNEL)["version"] == 1  # type: ignore[index]


@only_files
def test_the_words_of_another_are_not_signed(
    store: Store,
    register: Register,
    signer: Signer,
    verifier: Verifier,
    other_keys: tuple[Path, Path],
    experiment: Experiment,
) -> None:
    """The same content is one version: somebody else may have registered it first."""
    lax, strict = (with_promotion(experiment, min_ap=value) for value in (0.0, 0.9))
    for seed, changes in ((1, {"ap": 0.99}), (2, {"experiment": lax})):
        register(seed, **changes)
        with pytest.raises(SignatureError, match=r"registered with another (metrics|experiment)"):
            register(seed, **{"ap": 0.5, "experiment": strict} | {"signer": signer})
        with pytest.raises(SignatureError, match="is not signed"):
            verifier.check(store, read_version(store, "tiny", seed))
    register(3, signer=Signer(other_keys[0]))
    for _ in range(2):
        verifier.check(store, register(3, signer=signer))
    assert register(3, ap=0.7, signer=signer).manifest["metrics"] == {"AP": 0.5}  # signed already


@only_files
def test_commands_and_variables(
    store: Store,
    root: str,
    register: Register,
    keys: tuple[Path, Path],
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    private, public = keys
    for seed in (1, 2):
        register(seed, ap=0.5 + seed / 10)
    monkeypatch.setenv("SDPOSE_REGISTRY", root)
    out = tmp_path / "out.safetensors"

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sdpose", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capsys.readouterr()

    assert run("registry", "promote", "tiny", 1, "--channel", CHANNEL)[0] == 0
    monkeypatch.setenv("SDPOSE_PUBLIC_KEY", str(public))
    for command in (
        ("registry", "pull", "tiny@production", out),
        ("registry", "promote", "tiny", 2, "--channel", CHANNEL),
        ("registry", "promote", "tiny", 2, "--channel", CHANNEL, "--sign", private),
        ("registry", "rollback", "tiny", "--channel", CHANNEL),
        ("export", "registry://tiny/production", "--out", tmp_path / "x.onnx"),
    ):
        code, _, error = run(*command)
        assert (code, "sign" in error, "Traceback" in error) == (2, True, False), (command, error)
    assert run("registry", "verify")[0] == 1
    assert not out.exists()
    with pytest.raises(SignatureError):
        sdpose.load("registry://tiny/production")

    monkeypatch.setenv("SDPOSE_SIGNING_KEY", str(private))
    code, answer, _ = run("registry", "sign", "tiny@production")
    assert (code, answer) == (0, "tiny version 1: signed\nproduction: signed (generation 2)\n")
    assert run("registry", "sign", "tiny@2")[0] == 0
    old = store.read(POINTER)
    assert run("registry", "pull", "tiny@production", out)[0] == 0
    assert sdpose.load("registry://tiny/production").experiment.exp_name == "tiny"
    code, answer, error = run("registry", "promote", "tiny", 2, "--channel", CHANNEL)
    assert code == 0, answer + error
    assert run("registry", "verify")[0] == 0

    store.put(POINTER, old)
    code, _, error = run("registry", "pull", "tiny@production", out)
    assert (code, "give --allow-older once" in error) == (2, True)
    with pytest.raises(OlderPointerError, match="allow_older=True"):
        sdpose.load("registry://tiny/production")
    assert sdpose.load("registry://tiny/production", allow_older=True)
    assert run("registry", "pull", "tiny@production", out)[0] == 0
    shutil.rmtree(cache)

    monkeypatch.delenv("SDPOSE_PUBLIC_KEY")
    for command in (
        ("registry", "pull", "tiny@production", out, "--allow-older"),
        ("export", out, "--public-key", public),
    ):
        code, _, error = run(*command)
        assert (code, "Traceback" in error) == (2, False), error
    monkeypatch.delenv("SDPOSE_SIGNING_KEY")
    code, _, error = run("registry", "sign", "tiny@1")
    assert (code, "set SDPOSE_SIGNING_KEY" in error) == (2, True)


@only_files
def test_the_steps_of_a_pipeline(
    store: Store,
    root: str,
    register: Register,
    signer: Signer,
    verifier: Verifier,
    keys: tuple[Path, Path],
    experiment: Experiment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`register` and `promote` read the same variables as the commands."""
    monkeypatch.setenv("SDPOSE_REGISTRY", root)
    work_dir = tmp_path / "work"
    run = experiment.model_copy(update={"work_dir": str(work_dir)})
    results = tmp_path / "results.json"
    results.with_suffix(".metrics.json").write_text(
        json.dumps({"AP": 0.5, "settings": {"bbox_source": "ground truth"}})
    )
    checkpoint = write_checkpoint(tmp_path / "epoch_9.pth", experiment, 9)

    def registered() -> int:
        return register_run(
            run,
            checkpoint=checkpoint,
            trained_as=checkpoint,
            results=results,
            dataset_digest="",
            mlflow_run_id="",
            runner="local",
            git_commit="abc",
        ).version

    def promoted(version: int) -> Any:
        return promote_run(run, version, CHANNEL, approver="kim", data_source="")

    monkeypatch.setenv("SDPOSE_PUBLIC_KEY", str(keys[1]))
    version = registered()
    with pytest.raises(SignatureError, match="is not signed"):
        promoted(version)
    monkeypatch.setenv("SDPOSE_SIGNING_KEY", str(keys[0]))
    assert registered() == version
    assert promoted(version)["allowed"]
    assert verify(store, verifier=verifier) == []
    assert read_summary(work_dir)["promotion"] == current(store, "tiny", CHANNEL, verifier)


@pytest.mark.slow
@only_files
def test_a_cache_that_cannot_be_written_is_said(
    store: Store,
    root: str,
    register: Register,
    move: Callable[..., Any],
    signer: Signer,
    keys: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    register(1, signer=signer)
    move(1)
    (tmp_path / "file").write_text("no folder")
    command = [sys.executable, "-m", "sdpose", "registry", "pull", "tiny@production"]
    command += [str(tmp_path / "x.safetensors"), "--registry", root, "--public-key", str(keys[1])]
    # What may have been seen cannot be read; what is seen cannot be written.
    for place, code, words in (
        (tmp_path / "file", 2, "error: cannot read"),
        ("/proc/nowhere", 0, "warning: cannot write"),
    ):
        done = subprocess.run(
            command,
            env=os.environ | {"SDPOSE_CACHE": str(place)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
        assert words in done.stderr
        assert "SDPOSE_CACHE" in done.stderr
