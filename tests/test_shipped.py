"""The numbers and schemas below tests/ are those of ../shared, and hold no pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import shared_path
from tests.shipped import ARRAYS, CRDS, KFP_API, PIXELS, REFERENCE, TABLES, arrays, schemas, table

SHIP = "they differ: python tests/shipped.py"


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_the_official_ones(name: str) -> None:
    official = arrays(shared_path("reference", f"{name}.npz"))
    ours = np.load(REFERENCE / f"{name}.npz")
    assert official.keys() == set(ours.files), SHIP
    for key, values in official.items():
        assert values.dtype == ours[key].dtype, SHIP
        np.testing.assert_array_equal(values, ours[key], err_msg=SHIP)


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_the_official_ones(name: str) -> None:
    official = table(shared_path("reference", f"{name}.json"))
    ours = REFERENCE / f"{name}.json"
    assert table(ours) == official, SHIP
    assert not [word for word in PIXELS if f'"{word}"' in ours.read_text()]


def test_schemas_are_unmodified() -> None:
    originals = schemas(shared_path("crds").parent)
    there = {path for folder in (CRDS, KFP_API) for path in folder.rglob("*") if path.is_file()}
    assert there == originals.keys(), SHIP
    for ours, original in originals.items():
        assert ours.read_bytes() == original.read_bytes(), SHIP


def test_no_array_holds_pixels() -> None:
    files = [path for path in REFERENCE.rglob("*") if path.suffix == ".npz"]
    assert {str(path.relative_to(REFERENCE).with_suffix("")) for path in files} == set(ARRAYS)
    for path in files:
        of_pixels = [name for name, a in np.load(path).items() if a.dtype == np.uint8]
        assert not of_pixels, path
        assert not PIXELS & set(np.load(path).files), path


def test_the_schemas_name_their_origin() -> None:
    readme = Path(CRDS.parent / "README.md").read_text(encoding="utf-8")
    assert "Apache License 2.0" in readme
    for name in ("pytorchjobs.v1", "trainer-v2.2.0", "trainer-v2.3.0", "trainjobs.v1alpha1", "kfp"):
        assert name in readme
