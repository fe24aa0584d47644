"""Which code computes: a digest of the sources for cache keys, and the git commit for records.

For a cache a commit says too much or too little: a changed README is another commit, an edited file
is none.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

from sdpose.files import walk

# Their releases change results in the last digits.
NUMERICS = ("torch", "numpy", "opencv-python-headless", "pycocotools", "faster-coco-eval")


@cache
def source_version() -> str:
    """SHA-256, in hex, of this package's Python files."""
    digest = hashlib.sha256(b"sdpose sources 1\n")
    package = Path(__file__).parent
    for path in sorted(Path(p) for p in walk(package, hidden=False) if p.endswith(".py")):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(package).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def code_version() -> str:
    """SHA-256, in hex, of the sources and of the versions of `NUMERICS` that are installed."""
    digest = hashlib.sha256(f"sdpose code 1\n{source_version()}\n".encode())
    for name in NUMERICS:
        try:
            digest.update(f"{name} {metadata.version(name)}\n".encode())
        except metadata.PackageNotFoundError:
            digest.update(f"{name} absent\n".encode())
    return digest.hexdigest()


def git_commit() -> str:
    """The commit of the code that runs, with "-dirty" if files were changed since; "" if nothing
    tells. $SDPOSE_GIT_COMMIT says it in an image, which has no git."""
    if configured := os.environ.get("SDPOSE_GIT_COMMIT"):
        return configured
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(
            command,
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
