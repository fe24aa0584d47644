"""Files that are not found under their name, but are there in another spelling.

Windows writes back slashes and does not tell cases apart, macOS stores letters of Hangul one by
one, and exporters repeat the folder or leave it out: the names often look the same.
"""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path


def other_spellings(root: Path, names: Iterable[str], folder: str) -> dict[str, tuple[str, str]]:
    """Of missing files, those that are there otherwise: the name on disk, and what differs.

    root, folder: `names` are relative to `root`; the images' folder is `folder` below it.
    """
    listing = _Listing(root)
    found = {}
    for name in names:
        slashed = name.replace("\\", "/")
        inner = slashed.removeprefix(folder).lstrip("/")
        for candidate, difference in (
            (slashed, ""),
            (inner, "img_prefix is in the name again"),
            (posixpath.join(folder, posixpath.basename(slashed)), "other folders before it"),
        ):
            there = listing.find(candidate)
            if there is not None:
                found[name] = there, difference or _difference(name, there)
                break
    return found


def _difference(name: str, there: str) -> str:
    words = ["back slashes"] if "\\" in name else []
    name = name.replace("\\", "/")
    if _nfc(name) != _nfc(there):
        words.append("small and capital letters")
    if name.casefold() != there.casefold():
        words.append("composed and decomposed letters, NFC and NFD")
    return ", ".join(words)


class _Listing:
    """Folders below `root`, each read once, looked up without regard to case and composition."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[str, dict[str, str]] = {}

    def find(self, name: str) -> str | None:
        """The file that differs from `name` in spelling only."""
        if re.match(r"[A-Za-z]:/", name):
            return None
        there = "/" if name.startswith("/") else ""
        for part in name.split("/"):
            entry = part if part in ("", ".", "..") else self._entries(there).get(_key(part))
            if entry is None:
                return None
            there = posixpath.join(there, entry)
        return posixpath.normpath(there) if (self._root / there).is_file() else None

    def _entries(self, folder: str) -> dict[str, str]:
        if folder not in self._folders:
            try:
                entries = os.listdir(self._root / folder)
            except (OSError, ValueError):
                entries = []
            self._folders[folder] = {_key(entry): entry for entry in entries}
        return self._folders[folder]


def _key(part: str) -> str:
    return _nfc(part).casefold()


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)
