"""Exported programs (.pt2, .ts) run code when they are opened: nothing opens them unasked."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor, nn

import sdpose
from sdpose.cli import cli
from sdpose.config import Experiment, dump_experiment
from sdpose.errors import UserError
from sdpose.inference import load_network
from sdpose.inference.exported import METADATA, open_exported
from sdpose.inference.exported import export as write

pytestmark = pytest.mark.slow


class _RunsOnUnpickling:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"echo ran > {self.path}",)


class _WritesAFile(nn.Module):
    """TorchScript has no `os.system`, but it can write to any file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = str(path)

    def forward(self, images: Tensor) -> Tensor:
        file = torch.from_file(self.path, True, 4, dtype=torch.uint8)
        file.copy_(torch.tensor([114, 97, 110, 10], dtype=torch.uint8))
        return torch.zeros(images.shape[0], 17, 64, 48) + file.max()


class _Copies(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images[:, :1, ::4, ::4].repeat(1, 17, 1, 1)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    return tmp_path / "ran"


def hostile_program(path: Path, victim: Path, experiment: Experiment) -> Path:
    """A .pt2 file as torch.export writes it, with code where it keeps its example input."""
    whole = io.BytesIO()
    width, height = experiment.data_cfg.image_size
    program = torch.export.export(_Copies(), (torch.zeros(2, 3, height, width),))
    torch.export.save(program, whole, extra_files={METADATA: "{}"})
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        inputs = [name for name in source.namelist() if "sample_inputs" in name]
        assert inputs
        for name in source.namelist():
            code = pickle.dumps(_RunsOnUnpickling(victim))
            target.writestr(name, code if name in inputs else source.read(name))
    return path


def hostile_script(path: Path, victim: Path, experiment: Experiment) -> Path:
    script = torch.jit.script(_WritesAFile(victim))
    described = json.dumps({"experiment": dump_experiment(experiment)})
    torch.jit.save(script, str(path), _extra_files={METADATA: described})
    return path


HOSTILE = {".pt2": hostile_program, ".ts": hostile_script}


def predict(model: Path, coco: Path, out: Path, *more: str) -> Result:
    image = next((coco / "val2017").iterdir())
    return CliRunner().invoke(cli, ["predict", str(model), str(image), "--out", str(out), *more])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", HOSTILE)
@pytest.mark.parametrize("case", [str.lower, str.upper])
def test_a_program_is_not_opened_unasked(
    suffix: str, case, coco: Path, experiment: Experiment, tmp_path: Path, victim: Path
) -> None:
    path = HOSTILE[suffix](tmp_path / f"evil{suffix}", victim, experiment)
    path = path.rename(path.with_suffix(case(suffix)))
    result = predict(path, coco, tmp_path / "out", "--exp", "sdpose_s_v1")
    assert isinstance(result.exception, UserError | SystemExit), result.exception
    assert result.exit_code != 0
    for attempt in (sdpose.load, load_network, open_exported):
        with pytest.raises(UserError) as refused:
            attempt(path)
        if attempt is not load_network:
            text = str(refused.value)
            for part in (str(path), "can run any code", ".onnx", ".safetensors", "--trust"):
                assert part in text
    assert not victim.exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore")
def test_the_message_and_the_exit_code(
    coco: Path, experiment: Experiment, tmp_path: Path, victim: Path
) -> None:
    path = hostile_script(tmp_path / "evil.ts", victim, experiment)
    image = next((coco / "val2017").iterdir())
    command = [sys.executable, "-m", "sdpose", "predict", str(path), str(image)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert f"error: {path} is a program" in done.stderr
    assert "Traceback" not in done.stderr
    assert not victim.exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", HOSTILE)
def test_trust_opens_it(
    suffix: str, coco: Path, experiment: Experiment, tmp_path: Path, victim: Path
) -> None:
    path = HOSTILE[suffix](tmp_path / f"evil{suffix}", victim, experiment)
    result = predict(path, coco, tmp_path / "out", "--trust")
    assert victim.read_text() == "ran\n"
    if suffix == ".ts":
        assert result.exit_code == 0, result.output
        assert sdpose.load(path, trust=True).experiment == experiment


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format_", ["torchscript", "exported"])
def test_a_process_opens_what_it_has_written_itself(
    format_, coco: Path, checkpoint: Path, tmp_path: Path
) -> None:
    network, experiment = load_network(checkpoint)
    suffix = {"torchscript": ".ts", "exported": ".pt2"}[format_]
    path = tmp_path / f"small{suffix}"
    write(network, experiment, format_, path)
    assert sdpose.load(path).experiment == experiment
    elsewhere = shutil.copy(path, tmp_path / f"copy{suffix}")
    assert sdpose.load(elsewhere).experiment == experiment
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("more", b"")
    with pytest.raises(UserError, match="is a program"):
        sdpose.load(path)
    code = "import sys, sdpose; sdpose.load(sys.argv[1], trust=len(sys.argv) > 2)"
    for more, message in (((), "is a program"), (("trust",), "")):
        command = [sys.executable, "-c", code, str(elsewhere), *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) is bool(more), done.stderr
        assert message in done.stderr


@pytest.mark.filterwarnings("ignore")
def test_a_program_under_another_name_is_refused_too(
    experiment: Experiment, tmp_path: Path, victim: Path
) -> None:
    """What the name promises: nothing but .pt2 and .ts is ever opened as a program."""
    for suffix, make in HOSTILE.items():
        path = make(tmp_path / f"evil{suffix}", victim, experiment)
        for other in (".pth", ".pt", ".onnx", ".safetensors", ""):
            for trust in (False, True):
                with pytest.raises(UserError):
                    sdpose.load(path.rename(tmp_path / f"evil{other}"), trust=trust)
                path = (tmp_path / f"evil{other}").rename(path)
    assert not victim.exists()


def test_weights_of_the_detector_run_no_code(
    tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdpose.inference.boxes import published_weights
    from sdpose.models.weights import read_torch_file

    torch.save({"weight": _RunsOnUnpickling(victim)}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="run code"):
        read_torch_file(tmp_path / "evil.pth")
    # torch takes a file of this name in its cache for one that it has downloaded and checked.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub/checkpoints"
    cache.mkdir(parents=True)
    (tmp_path / "evil.pth").rename(cache / "detector-12345678.pth")
    with pytest.raises(UserError, match="run code"):
        published_weights("http://127.0.0.1:9/detector-12345678.pth")
    assert not victim.exists()
