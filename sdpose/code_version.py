"""Which code computes: a digest for cache keys, where a git commit would say too much or too little
(a changed README is another commit, an edited file is none)."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import metadata
from pathlib import Path

# Their releases change results in the last digits.
NUMERICS = ("torch", "numpy", "opencv-python-headless", "pycocotools", "faster-coco-eval")


@cache
def code_version() -> str:
    """SHA-256, in hex, of this package's Python files and of the versions of `NUMERICS`."""
    digest = hashlib.sha256(b"sdpose code 1\n")
    package = Path(__file__).parent
    for path in sorted(package.rglob("*.py")):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(package).as_posix()} {content}\n".encode())
    for name in NUMERICS:
        try:
            digest.update(f"{name} {metadata.version(name)}\n".encode())
        except metadata.PackageNotFoundError:
            digest.update(f"{name} absent\n".encode())
    return digest.hexdigest()
