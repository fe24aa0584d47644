"""Paths of an mmpose configuration, relative to the folder of the data instead of the working
directory."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence


def data_folder(given: str | None, ann_files: Sequence[str], img_prefixes: Sequence[str]) -> str:
    """The folder that paths are written relative to.

    Args:
        given: the file's variable `data_root`, which mmpose itself does not read.
        ann_files, img_prefixes: annotation files and folders of images, those of training first.
    Returns:
        The variable if the training annotations lie below it, else the folder that holds all; the
        training images' if that is the whole machine.
    """
    if given and is_below(ann_files[0], given):
        return posixpath.normpath(given)
    folders = [posixpath.dirname(path) or "." for path in ann_files]
    try:
        common = posixpath.commonpath(map(posixpath.normpath, [*folders, *img_prefixes]))
    except ValueError:  # absolute and relative ones
        return "."
    return posixpath.normpath(img_prefixes[0]) if common == "/" else common or "."


def is_below(path: str, folder: str) -> bool:
    path, folder = posixpath.normpath(path), posixpath.normpath(folder)
    if folder == ".":
        return not posixpath.isabs(path) and not path.startswith("..")
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def relative_to(path: str, folder: str) -> str:
    """The same file, as a path that is relative to `folder` as soon as it can be.

    >>> relative_to("data/coco//val2017/", "data/coco"), relative_to("data/det.json", "data/coco")
    ('val2017', '../det.json')
    >>> relative_to("/srv/det.json", "/srv/coco")
    '/srv/det.json'
    """
    if is_below(path, folder) or not (posixpath.isabs(path) or posixpath.isabs(folder)):
        return posixpath.relpath(path, folder)
    return os.path.abspath(path)
