from __future__ import annotations

import resource
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from sdpose.errors import UserError
from sdpose.training.checkpoint import (
    FORMAT,
    CorruptCheckpointError,
    load_checkpoint,
    newest_checkpoint,
    same_file,
    save_checkpoint,
)
from sdpose.training.paths import outdated


def content(value: float, **meta: Any) -> dict[str, Any]:
    return {
        "state_dict": {"weight": torch.full((1000,), value)},
        "optimizer": {"state": {}, "param_groups": []},
        "meta": {"format": FORMAT, "epoch": 1, "iteration": 7, "value": value, **meta},
    }


def value_of(path: Path) -> float:
    return load_checkpoint(path)["meta"]["value"]


def damage(path: Path) -> None:
    """Flips one bit in the middle of the tensor's bytes; torch.load does not notice."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        record = max(archive.infolist(), key=lambda info: info.file_size)
    data[record.header_offset + 2000] ^= 1
    path.write_bytes(data)
    torch.load(path, weights_only=True)


def test_a_changed_bit_and_a_torn_file_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "latest.pth"
    save_checkpoint(path, content(1.0))
    assert value_of(path) == 1.0
    whole = path.read_bytes()
    damage(path)
    with pytest.raises(CorruptCheckpointError, match="checksum"):
        load_checkpoint(path)
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CorruptCheckpointError):
            load_checkpoint(path)


def test_newest_skips_damaged_ones_and_says_so(tmp_path: Path, logged: list[str]) -> None:
    assert newest_checkpoint(tmp_path) is None
    for epoch in (2, 9, 10):
        save_checkpoint(tmp_path / f"epoch_{epoch}.pth", content(epoch))
    same_file(tmp_path / "epoch_10.pth", tmp_path / "latest.pth")
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert (found[0].name, found[1]["meta"]["value"], logged) == ("latest.pth", 10, [])

    damage(tmp_path / "epoch_10.pth")  # latest.pth, too: they are one file
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found[0].name == "epoch_9.pth"
    assert len(logged) == 2
    assert "latest.pth" in logged[0]


def test_latest_survives_the_removal_of_its_source(tmp_path: Path) -> None:
    latest = tmp_path / "latest.pth"
    for epoch in (1, 2, 3):
        save_checkpoint(tmp_path / f"epoch_{epoch}.pth", content(epoch))
        same_file(tmp_path / f"epoch_{epoch}.pth", latest)
        same_file(tmp_path / f"epoch_{epoch}.pth", latest)  # again: rename(2) does nothing then
        for old in outdated([p.name for p in tmp_path.iterdir()], f"epoch_{epoch}.pth", keep=1):
            (tmp_path / old).unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch_3.pth", "latest.pth"]
    (tmp_path / "epoch_3.pth").unlink()
    assert value_of(latest) == 3
    save_checkpoint(latest, content(4))
    assert value_of(latest) == 4


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    """The kernel refuses the write half way, as a full disk does."""
    path = tmp_path / "latest.pth"
    save_checkpoint(path, content(1.0))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*latest\.pth.*MB are free"):
            save_checkpoint(path, content(2.0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert value_of(path) == 1.0
    assert [p.name for p in tmp_path.iterdir()] == ["latest.pth"]


def test_a_foreign_file_is_not_resumed(tmp_path: Path) -> None:
    path = tmp_path / "official.pth"
    torch.save({"state_dict": {}, "meta": {"epoch": 210}}, path)
    with pytest.raises(UserError, match="--load-from"):
        load_checkpoint(path)
