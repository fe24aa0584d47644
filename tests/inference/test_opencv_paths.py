"""OpenCV ends the process at a path that is not UTF-8: one module alone hands it paths."""

from __future__ import annotations

import ast
import json
import os
import shutil
from pathlib import Path

from click.testing import CliRunner

from sdpose.cli import cli
from sdpose.errors import UserError

OPENS_BY_NAME = {
    *("imread", "imreadmulti", "imreadanimation", "imcount", "haveImageReader"),
    *("imwrite", "imwritemulti", "imwriteanimation", "VideoCapture", "VideoWriter", "FileStorage"),
}
ALLOWED = {"sdpose/inference/video.py"}


def test_no_other_module_hands_opencv_a_path(repository: Path) -> None:
    found = set()
    for folder in ("sdpose", "components", "pipelines"):
        for path in (repository / folder).rglob("*.py"):
            tree = ast.parse(path.read_bytes())
            names = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
            names |= {
                alias.name
                for n in ast.walk(tree)
                if isinstance(n, ast.ImportFrom) and n.module == "cv2"
                for alias in n.names
            }
            if names & OPENS_BY_NAME:
                found.add(str(path.relative_to(repository)))
    assert found == ALLOWED


def test_what_opencv_knows_and_does_not_read(checkpoint: Path, tmp_path: Path) -> None:
    """It raises for OpenEXR, where it answers no to other formats."""
    picture = tmp_path / "depth.exr"
    picture.write_bytes(b"\x76\x2f\x31\x01" + bytes(200))
    done = CliRunner().invoke(cli, ["predict", str(checkpoint), str(picture)])
    assert isinstance(done.exception, UserError)
    assert str(done.exception).startswith(f"{picture}: ")


def test_names_that_are_no_text(cases: Path, checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode("현장".encode("cp949"))
    video = folder / os.fsdecode("작업 50%d.mp4".encode("cp949"))
    folder.mkdir()
    shutil.copy(cases / "51-video/a.mp4", video)
    shutil.copy(cases / "40-jfif-photo/photo.jfif", folder / "http:photo")
    for source, drawn in ((video, video.name), (folder / "http:photo", "http:photo.jpg")):
        out = folder / f"out of {source.name}"
        words = ["predict", str(checkpoint), str(source), "--out", str(out), "--json"]
        done = CliRunner().invoke(cli, words)
        assert done.exception is None, done.exception
        assert sorted(os.listdir(out)) == sorted([drawn, "results.json", "skeleton.yaml"])
        assert (out / drawn).stat().st_size > 300
        assert json.loads(done.stdout)["pictures"] == (6 if source == video else 1)
