"""What SQLite says, as an error of this package: by what the caller does next.

Owns the codes of SQLite; opens nothing and knows no table.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator

from coherent_volume.errors import (
    BusyError,
    CoherenceError,
    DamagedError,
    NotPermittedError,
    SchemaVersionError,
    StorageError,
    UnconfirmedError,
    from_os_error,
)

__all__ = ["FAILURES", "check_version", "explain_unopenable", "typed", "typed_error"]

# Damaged text in a row or in the schema surfaces as the second kind.
FAILURES = (sqlite3.Error, UnicodeDecodeError)


def typed_error(
    error: sqlite3.Error | UnicodeDecodeError, step: str, *, committing: bool = False
) -> CoherenceError:
    """The error of this package that tells what the caller does next."""
    code = getattr(error, "sqlite_errorcode", 0) or 0
    primary = code & 0xFF
    text = f"could not {step}: {error}"
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return DamagedError(f"the sidecar is damaged: {error}")
    if primary == sqlite3.SQLITE_IOERR and committing:
        return UnconfirmedError(text)
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return BusyError(text, holder="another process")
    if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return NotPermittedError(text)
    if code == sqlite3.SQLITE_IOERR_SHORT_READ:
        return DamagedError(f"the sidecar is damaged: {error}")
    # SQLite cannot make its shared index larger: on a full disk the first of all.
    if primary == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_SHMSIZE:
        return StorageError(
            f"could not {step}: no space left on device", step=step, errno=errno.ENOSPC
        )
    if isinstance(error, sqlite3.OperationalError):
        return StorageError(text, step=step, errno=None)
    return DamagedError(f"the sidecar contradicts itself: {error}")


@contextlib.contextmanager
def typed(step: str) -> Iterator[None]:
    """Raise what SQLite raises in the block as an error of this package."""
    try:
        yield
    except FAILURES as error:
        raise typed_error(error, step) from error


def explain_unopenable(path: str) -> None:
    """Raise what the system says, where SQLite only says that it cannot open."""
    try:
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        os.close(os.open(path, os.O_PATH))
    except OSError as error:
        raise from_os_error(error, None, "open the sidecar") from error


def check_version(connection: sqlite3.Connection, application: int, expected: int) -> None:
    """Raise DamagedError or SchemaVersionError unless this program knows the database."""
    found = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if found != application:
        raise DamagedError("sidecar.db is not the sidecar of a coherent volume")
    if version > expected:
        raise SchemaVersionError(
            f"the sidecar has schema {version}, this program knows {expected}",
            schema=version,
            known=expected,
        )
