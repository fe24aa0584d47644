"""macOS has no sched_getaffinity and no posix_fadvise: preparing and reading go on without."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sdpose.cpus import cpu_count

PROGRAM = """
import os, sys
for name in ("sched_getaffinity", "sched_setaffinity", "posix_fadvise", "POSIX_FADV_WILLNEED"):
    delattr(os, name)
import numpy as np
from packed import fast_experiment, prepare
from sdpose.cpus import cpu_count
from sdpose.pack_store import open_pack
assert cpu_count() == os.cpu_count()
pack = open_pack(prepare(fast_experiment(sys.argv[1], sys.argv[2])).pack)
region = np.array([[0, 0, 2, 2]])
pixels, offsets = pack.read(np.array([0]), region)
print(pixels.shape)
"""


def test_a_pack_is_made_and_read(coco_mini, tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(coco_mini), str(tmp_path / "packs")],
        cwd=Path(__file__).parent,
        env={**os.environ, "SDPOSE_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "(12,)\n"


def test_processors_are_those_that_may_be_used():
    assert cpu_count() == len(os.sched_getaffinity(0))
