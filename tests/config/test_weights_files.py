"""Weights are read from files; an address is refused before anything is run."""

from __future__ import annotations

import shutil

import pytest

from pipelines.plan import absolute_path
from sdpose.config import parse_experiment
from sdpose.errors import UserError
from sdpose.tools.mmpose_import import import_config

ADDRESSES = ("s3://bucket/w.pth", "https://host/w.pth", "torchvision://resnet50", "registry://m/1")


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("key", ["load_from", "resume_from", "model.pretrained"])
def test_an_address_is_no_weights_file(key, address):
    document = {"exp_name": "x"}
    section, _, name = key.rpartition(".")
    (document.setdefault(section, {}) if section else document)[name] = address
    with pytest.raises(UserError) as caught:
        parse_experiment(document)
    assert key in str(caught.value)
    assert f"'{address}' is an address; weights are read from a file" in str(caught.value)


@pytest.mark.parametrize("path", ["w.pth", "/data/w.pth", "auto", "s3:/odd/w.pth"])
def test_a_path_is(path):
    assert parse_experiment({"exp_name": "x", "resume_from": path}).resume_from == path


def test_an_address_stays_one_on_the_way(tmp_path, monkeypatch):
    """--load-from s3://bucket/w.pth became FOLDER/s3:/bucket/w.pth."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    given = {"a": "s3://bucket/x", "b": "auto", "c": None, "d": "~/w.pth", "e": "w.pth"}
    assert {name: absolute_path(path, name) for name, path in given.items()} == {
        **given,
        "d": f"{tmp_path}/w.pth",
        "e": f"{tmp_path}/w.pth",
    }


def test_an_imported_configuration_says_what_to_download(tmp_path, repository):
    folder = tmp_path / "coco"
    shutil.copytree(repository / "tests/tools/mmpose_import/mmpose", tmp_path, dirs_exist_ok=True)
    url = "https://download.openmmlab.com/mmpose/pretrain_models/hrnet_w32-36af842e.pth"
    path = folder / "sdpose_b.py"
    text = path.read_text().replace("pretrained_model/hrnet/hrnet_w32-36af842e.pth", url)
    path.write_text(text + f"load_from = {url!r}\n")
    imported = import_config(path)
    assert imported.experiment.model.pretrained is None
    assert imported.experiment.load_from is None
    for key in ("model.pretrained", "load_from"):
        assert f"download it, then set {key} to the file" in imported.text
