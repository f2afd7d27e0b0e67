"""Database files: making one, opening one, and what a damaged one still yields.

Knows no table. Nothing here keeps a connection: who opens one closes it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Sequence
from typing import Any

from coherent_volume.sql_errors import explain_unopenable, typed

__all__ = ["APPLICATION_ID", "connect", "create", "salvage"]

APPLICATION_ID = 0x636F7665  # "cove": tells the file apart from other databases


def connect(path: str, timeout_s: float) -> sqlite3.Connection:
    """A connection to the database at *path*, which must exist; any thread may use it."""
    from urllib.parse import quote

    # mode=rw: a missing file must be said, never made anew and empty.
    name = f"file:{quote(os.fsencode(path))}?mode=rw"
    try:
        connection = sqlite3.connect(
            name,
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=timeout_s,
        )
        # Checkpoints run after the acknowledgement (see maintenance): inside
        # a commit they cost 8 ms at the 99th percentile instead of 1.7.
        connection.execute("PRAGMA wal_autocheckpoint=0")
        # The first page is read here, so that a failure is told as one of opening.
        connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_CANTOPEN:
            explain_unopenable(path)
        raise
    return connection


def create(path: str, schema: str, schema_version: int, meta: dict[str, str]) -> None:
    """Make a database at *path*, complete or not at all."""
    draft = f"{path}.new"
    for leftover in (draft, f"{draft}-wal", f"{draft}-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(leftover)
    with typed("create the sidecar"):
        connection = sqlite3.connect(draft, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.executescript(f"BEGIN;{schema}PRAGMA user_version={schema_version};COMMIT")
            connection.executemany("INSERT INTO meta VALUES (?, ?)", list(meta.items()))
        finally:
            connection.close()
    descriptor = os.open(draft, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    # The log of a database that was lost would be replayed into this one.
    for leftover in (f"{path}-wal", f"{path}-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(leftover)
    os.rename(draft, path)


def salvage(path: str, statements: Sequence[str]) -> list[list[tuple[Any, ...]]]:
    """What each statement still yields from a damaged database, up to its first error."""
    found: list[list[tuple[Any, ...]]] = []
    try:
        connection = sqlite3.connect(path, isolation_level=None)
    except sqlite3.Error:
        return [[] for _ in statements]
    with contextlib.closing(connection):
        for statement in statements:
            rows: list[tuple[Any, ...]] = []
            with contextlib.suppress(sqlite3.Error):
                rows.extend(connection.execute(statement))
            found.append(rows)
    return found
