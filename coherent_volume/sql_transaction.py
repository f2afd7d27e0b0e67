"""The with-block of a transaction, which an interrupt may end at any line.

Owns the order of its steps. Knows neither file nor table, and opens nothing.
"""

from __future__ import annotations

import sqlite3
from typing import Protocol

from coherent_volume.sql_errors import FAILURES, typed_error

__all__ = ["Transaction"]


class Transactional(Protocol):
    """Where it is done."""

    def begin(self, *, relaxed: bool) -> sqlite3.Connection:
        """Start it."""

    def leave(self) -> None:
        """Undo what no commit has ended; nothing after a commit."""


class Transaction:
    """All of the block, or nothing."""

    # A class and not a generator: one that an interrupt left between its frames keeps
    # the transaction open as long as the exception lives, and ends another one when
    # it is closed at last.
    __slots__ = ("_connection", "_database", "_relaxed")

    def __init__(self, database: Transactional, *, relaxed: bool) -> None:
        self._database = database
        self._relaxed = relaxed

    def __enter__(self) -> sqlite3.Connection:
        try:
            self._connection = self._database.begin(relaxed=self._relaxed)
        except BaseException as error:
            self._database.leave()
            if isinstance(error, FAILURES):
                raise typed_error(error, "write the sidecar") from error
            raise
        return self._connection

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is None:
                self._connection.execute("COMMIT")
        except FAILURES as failure:
            raise typed_error(failure, "write the sidecar", committing=True) from failure
        finally:
            self._database.leave()
        if isinstance(error, FAILURES):
            raise typed_error(error, "write the sidecar") from error
