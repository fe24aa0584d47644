"""Updates the artifact paths in MLflow's SQLite file after its folder was moved or copied.

MLflow stores absolute paths. After a move, new artifacts would go to the old folder, and those in
the new one would not be found. MLflow has no call to change them, so the two columns are changed in
the database itself.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sqlite3
from pathlib import Path
from urllib.parse import unquote, urlsplit

ARTIFACTS = "mlartifacts"  # beside the database; a folder for each experiment is in it
LOCKED_SECONDS = 30.0
_REPLACE = "UPDATE {} SET {} = ? || substr({}, ?) WHERE substr({}, 1, ?) = ?"


log = logging.getLogger(__name__)


def artifacts_beside(database: Path) -> Path:
    return database.absolute().parent / ARTIFACTS


@functools.cache
def update_locations(database: Path) -> None:
    """Makes the database name the folder that is beside it now; reports a change on stderr.

    Only locations that sdpose has chosen are changed. If the file is not a database, MLflow reports
    that later.
    """
    if not database.is_file():
        return
    here = artifacts_beside(database)
    with contextlib.suppress(sqlite3.Error):
        connection = sqlite3.connect(database, timeout=LOCKED_SECONDS)
        with contextlib.closing(connection), connection:
            for before in _other_places(connection, here):
                _replace(connection, "experiments", "artifact_location", before, here)
                if here.is_dir():  # what was moved along
                    _replace(connection, "runs", "artifact_uri", before, here)
                log.info(
                    f"{database} was moved: MLflow's artifacts are in {here} now, not in "
                    f"{_path(before)} any more"
                )


def _other_places(connection: sqlite3.Connection, here: Path) -> list[str]:
    """URIs of artifact folders in the database that are not the one beside it."""
    found = []
    for (location,) in connection.execute("SELECT artifact_location FROM experiments"):
        folder = str(location or "").rpartition("/")[0]
        path = _path(folder)
        if folder.startswith("file:") and path.name == ARTIFACTS and not _is_same(path, here):
            found.append(folder)
    return list(dict.fromkeys(found))


def _replace(
    connection: sqlite3.Connection, table: str, column: str, before: str, here: Path
) -> None:
    prefix = f"{before}/"
    values = (f"{here.as_uri()}/", len(prefix) + 1, len(prefix), prefix)
    connection.execute(_REPLACE.format(table, column, column, column), values)


def _path(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))


def _is_same(one: Path, other: Path) -> bool:
    return one == other or os.path.realpath(one) == os.path.realpath(other)
