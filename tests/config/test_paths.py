"""Paths as people type them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdpose.config import load_experiment
from sdpose.config.paths import local_path
from sdpose.errors import UserError


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATA", "/data")
    monkeypatch.delenv("NOT_SET", raising=False)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/data/coco", "/data/coco"),
        ("data/coco", "data/coco"),
        ("~/coco", "/home/me/coco"),
        ("~", "/home/me"),
        ("$DATA/coco", "/data/coco"),
        ("${DATA}/coco", "/data/coco"),
        ("a/${DATA}", "a//data"),
        ("file:///data/coco", "/data/coco"),
        ("file://localhost/data/my%20coco", "/data/my coco"),
        ("price in $.json", "price in $.json"),
        ("a$NOT_SET.json", "a$NOT_SET.json"),
        ("backup~/coco", "backup~/coco"),
    ],
)
def test_a_path_is_what_was_meant(text: str, path: str) -> None:
    assert local_path(text, "data_root") == path


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("$NOT_SET/coco", "the variable $NOT_SET is not set"),
        ("/x/${NOT_SET}/coco", "the variable $NOT_SET is not set"),
        ("~nobody-of-this-name/coco", "no home folder of that user"),
        ("file://data/coco", "three slashes"),
        ("D:/datasets/coco/", "give /mnt/d/datasets/coco/"),
        ("D:\\datasets\\coco", "WSL: give /mnt/d/datasets/coco"),
        ("\\\\server\\share\\coco", "path of Windows"),
    ],
)
def test_a_path_that_cannot_be_meant_is_refused_with_the_remedy(text: str, reason: str) -> None:
    with pytest.raises(UserError) as refused:
        local_path(text, "data_root")
    assert str(refused.value).startswith(f"data_root: {text}")
    assert reason in str(refused.value)


def test_a_folder_of_that_name_is_taken(tmp_path: Path) -> None:
    (tmp_path / "$NOT_SET").mkdir()
    assert local_path("$NOT_SET", "data_root") == "$NOT_SET"


def test_every_path_of_an_experiment_is_read_so(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "base: quickstart\nexp_name: mine\ndata_root: ~/coco\n"
        "data: {train: {ann_file: $DATA/train.json}, pack_dir: 'file:///packs'}\n"
    )
    given = ("data_cfg.bbox_file=${DATA}/boxes.json", "model.pretrained=~/w.pth")
    experiment = load_experiment("mine.yaml", given, work_dir="$DATA/runs", load_from="~/a.pth")
    assert experiment.data_root == "/home/me/coco"
    assert experiment.data.train.ann_file == "/data/train.json"
    assert experiment.data.train.img_prefix == load_experiment("quickstart").data.train.img_prefix
    assert experiment.data.pack_dir == "file:///packs"  # an address: packs are copied from there
    assert experiment.data_cfg.bbox_file == "/data/boxes.json"
    assert experiment.model.pretrained == "/home/me/w.pth"
    assert (experiment.work_dir, experiment.load_from) == ("/data/runs", "/home/me/a.pth")
    with pytest.raises(UserError, match="data_root: D:/x is a path of Windows"):
        load_experiment("quickstart", data_root="D:/x")
