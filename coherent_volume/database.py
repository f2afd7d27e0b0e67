"""Connections to the sidecar database: opening, transactions, typed failures.

Owns sqlite3: no other module imports it. Knows no table. Two connections per
process: one reads outside the gate, one works under it. They are separate
because a statement on a shared connection would see the other thread's
uncommitted rows.

Rules that keep SQLite itself sound:
- Writing, checkpoints and closing happen under the volume's gate. SQLite's busy
  handler polls and starves, and two connections that write and checkpoint at
  one time can lose a write in versions before 3.51.3.
- Nobody opens, copies or globs the database files by other means: closing any
  other descriptor of them in this process drops SQLite's own locks.
- No connection is open while the process forks: SQLite keeps a table of its
  locks in memory, and in a child that table lies. One that is in use stays open,
  and then the child never touches that database.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from coherent_volume.errors import ClosedError, DamagedError, StorageError
from coherent_volume.model import Durability
from coherent_volume.sql_errors import (
    FAILURES,
    check_version,
    explain_unopenable,
    typed,
    typed_error,
)
from coherent_volume.weak import members

__all__ = ["Connection", "Database", "Reader", "Row"]

Connection = sqlite3.Connection

Row = tuple[Any, ...]

Reader = Callable[[str, Sequence[object]], list[Row]]
"""Rows of a statement with its values."""

_APPLICATION_ID = 0x636F7665  # "cove": tells the file apart from other databases
_BUSY_TIMEOUT_S = 5.0  # only recovery after a crash ever makes a statement wait
_IN_USE_WAIT_S = 2.0

_untrue: set[tuple[int, int]] = set()
"""In a forked child: the files that a connection was open on during the fork."""
_inherited: list[Connection] = []
"""Those connections. Never closed: that would roll back what their thread is doing."""


class Database:
    """One process's connections to one database file.

    ``path`` must stay the same inode while it is open; ``verify`` says so.
    Reading functions may be called by any thread; the writing ones under the
    gate only, which also serialises the threads.
    """

    def __init__(self, path: str, durability: Durability, schema_version: int) -> None:
        self.path = path
        self.durability = durability
        self._synchronous = "FULL" if durability == "power" else "NORMAL"
        # Protects the reading connection from being used by two threads at a
        # time. Safety does not rest on it (SQLite serialises); it keeps cursors
        # apart so that no read transaction is left open.
        self._read_lock = threading.RLock()
        self._reader: sqlite3.Connection | None = None
        self._writer: sqlite3.Connection | None = None
        # Whether whoever has the gate is using the writing connection, and which
        # thread wants to close it. Each is set before the other is looked at. No
        # lock: one that an interrupt left taken would end all commits, and this
        # only makes a fork or a close wait.
        self._in_use = True
        self._closing = 0
        self._relaxed = False
        self.has_written = False
        """Whether this process ever opened the connection for writing."""
        with typed("open the sidecar"):
            self._identity = self._look()
            _databases.add(self)
            self._reader = self._connect()
            check_version(self._reader, _APPLICATION_ID, schema_version)
        self._in_use = False

    @staticmethod
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
                connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
                connection.executescript(
                    f"BEGIN;{schema}PRAGMA user_version={schema_version};COMMIT"
                )
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

    @staticmethod
    def salvage(path: str, statements: Sequence[str]) -> list[list[Row]]:
        """What each statement still yields from a damaged database, up to its first error."""
        found: list[list[Row]] = []
        try:
            connection = sqlite3.connect(path, isolation_level=None)
        except sqlite3.Error:
            return [[] for _ in statements]
        with contextlib.closing(connection):
            for statement in statements:
                rows: list[Row] = []
                with contextlib.suppress(sqlite3.Error):
                    rows.extend(connection.execute(statement))
                found.append(rows)
        return found

    def _connect(self) -> sqlite3.Connection:
        if self._identity in _untrue:
            raise ClosedError(
                "this process was forked while another thread was using the volume's records",
                advice="Fork while no other thread uses the volume, or start the process with"
                " subprocess or the method spawn.",
            )
        # mode=rw: a missing file must be said, never made anew and empty.
        name = f"file:{_uri_quoted(self.path)}?mode=rw"
        try:
            connection = sqlite3.connect(
                name,
                uri=True,
                isolation_level=None,
                check_same_thread=False,
                timeout=_BUSY_TIMEOUT_S,
            )
            # Checkpoints run after the acknowledgement (see maintenance): inside
            # a commit they cost 8 ms at the 99th percentile instead of 1.7.
            connection.execute("PRAGMA wal_autocheckpoint=0")
            # The first page is read here, so that a failure is told as one of opening.
            connection.execute("PRAGMA schema_version").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_CANTOPEN:
                explain_unopenable(self.path)
            raise
        return connection

    def _look(self) -> tuple[int, int]:
        found = os.stat(self.path)
        return found.st_dev, found.st_ino

    def verify(self) -> None:
        """Raise DamagedError unless the database is still the file we opened.

        Without this a process would go on committing into an unlinked inode
        while its peers see another database: two truths, no error.
        """
        try:
            same = self._look() == self._identity
        except FileNotFoundError:
            same = False
        except OSError as error:
            raise StorageError(f"the sidecar cannot be reached: {error.strerror}") from error
        if not same:
            raise DamagedError("the sidecar was replaced or deleted while this session was open")

    def read(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """Rows of *sql*, as committed now; outside the gate."""
        with typed("read the sidecar"), self._read_lock:
            connection = self._reader or self._reopen()
            return connection.execute(sql, values).fetchall()

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Reader]:
        """Rows of several statements as they were at one moment; outside the gate.

        It holds for every read of this thread in the block, which also costs half
        as much that way. Other threads of this volume object wait with theirs, and
        no checkpoint can start the log again, until the block ends.
        """
        with typed("read the sidecar"), self._read_lock:
            connection = self._reader or self._reopen()
            connection.execute("BEGIN")
            try:
                yield lambda sql, values: connection.execute(sql, values).fetchall()
            finally:
                self._roll_back(connection)

    def read_one(self, sql: str, values: Sequence[object]) -> Row | None:
        """The only row of *sql*, or None; outside the gate."""
        # Written out, without the context manager of `read`: it is on the path
        # of every first read.
        with self._read_lock:
            try:
                rows = (self._reader or self._reopen()).execute(sql, values).fetchall()
            except FAILURES as error:
                raise typed_error(error, "read the sidecar") from error
        return rows[0] if rows else None

    def _reopen(self) -> sqlite3.Connection:
        self.verify()
        self._reader = self._connect()
        return self._reader

    def _opened_writer(self) -> sqlite3.Connection:
        """The connection for use under the gate; it sees what it has written."""
        self._in_use = True
        while self._closing and self._closing != threading.get_ident():
            self._in_use = False
            with self._read_lock:
                pass  # until the fork is over
            self._in_use = True
        if self._writer is None:
            with typed("open the sidecar"):
                self._writer = self._connect()
                self._writer.execute(f"PRAGMA synchronous={self._synchronous}")
                self._relaxed = False
                self.has_written = True
        return self._writer

    def gated(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """Rows of *sql*; under the gate, so nothing can change them meanwhile."""
        outer = self._in_use  # also within a transaction
        try:
            return self._opened_writer().execute(sql, values).fetchall()
        except FAILURES as error:
            raise typed_error(error, "read the sidecar") from error
        finally:
            self._in_use = outer

    @contextlib.contextmanager
    def transaction(self, *, durable: bool) -> Iterator[sqlite3.Connection]:
        """One transaction under the gate: all of the block, or nothing.

        *durable* says whether an acknowledged block must survive a power loss
        (as far as the volume's durability asks for it); housekeeping need not.
        An I/O error of the COMMIT itself raises UnconfirmedError: the log may
        hold the commit although the flush failed, and a flush is never retried.
        """
        relaxed = not durable and self._synchronous == "FULL"
        committing = False
        try:
            connection = self._opened_writer()
            # What an interrupt left behind in an earlier one.
            self._roll_back(connection)
            try:
                if relaxed:
                    self._relaxed = True
                    connection.execute("PRAGMA synchronous=NORMAL")
                elif self._relaxed:
                    self._tighten(connection)
                # BEGIN IMMEDIATE, not BEGIN: a deferred transaction that has read
                # cannot be upgraded once a peer commits; SQLite answers
                # BUSY_SNAPSHOT at once and never consults the busy timeout.
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                committing = True
                connection.execute("COMMIT")
            except BaseException as error:
                self._roll_back(connection)
                if isinstance(error, FAILURES):
                    raise typed_error(error, "write the sidecar", committing=committing) from error
                raise
            finally:
                if relaxed:
                    with contextlib.suppress(sqlite3.Error):
                        self._tighten(connection)
        finally:
            self._in_use = False

    def _tighten(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA synchronous=FULL")
        self._relaxed = False

    @staticmethod
    def _roll_back(connection: sqlite3.Connection) -> None:
        # A failed statement may have rolled back by itself (disk full does);
        # then there is nothing to roll back and saying so is no error.
        with contextlib.suppress(sqlite3.Error):
            if connection.in_transaction and connection not in _inherited:
                connection.execute("ROLLBACK")

    def log_bytes(self) -> int:
        """Size of the write-ahead log; by stat, never by opening it."""
        try:
            return os.stat(f"{self.path}-wal").st_size
        except OSError:
            return 0

    def checkpoint(self, *, truncate: bool) -> None:
        """Move the log into the database file; under the gate.

        Without *truncate* the log is written from its start again, over blocks
        that exist: a flush then waits for the data and not for the journal,
        which halves the cost of a durable commit.
        """
        # A long reader makes it incomplete, which the next one mends.
        mode = "TRUNCATE" if truncate else "RESTART"
        with typed("checkpoint the sidecar"):
            self._opened_writer().execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
        self._in_use = False

    def integrity(self) -> list[str]:
        """What SQLite's own check finds wrong; empty when nothing."""
        return [str(row[0]) for row in self.read("PRAGMA integrity_check") if row[0] != "ok"]

    def close(self, *, alone: bool = True) -> None:
        """Close both connections, under the gate; the next use opens them again.

        Not *alone*, without the gate: what another thread goes on using stays open.
        """
        if alone and self._writer is not None:
            self._roll_back(self._writer)
        try:
            self.close_for_fork(alone=alone)
        finally:
            self.forked()

    def close_for_fork(self, *, alone: bool) -> None:
        """Close, and keep other threads from opening again until ``forked``.

        *alone* says that the caller has the gate. A connection that is in use stays
        open: to close it under its thread would end the process.
        """
        self._read_lock.acquire()
        self._closing = threading.get_ident()
        until = time.monotonic() + _IN_USE_WAIT_S
        while self._in_use and not alone and time.monotonic() < until:
            time.sleep(0.001)
        self._reader = self._closed(self._reader)
        if alone or not self._in_use:
            self._writer = self._closed(self._writer)
            self._in_use = self._writer is not None

    @staticmethod
    def _closed(connection: sqlite3.Connection | None) -> sqlite3.Connection | None:
        """Close it, unless this very thread stands in a transaction of it."""
        with contextlib.suppress(sqlite3.Error):
            if connection is not None and connection.in_transaction:
                return connection
            if connection is not None:
                connection.close()
        return None

    def forked(self) -> None:
        """After a fork, in the parent: connections may be opened again."""
        self._closing = 0
        with contextlib.suppress(RuntimeError):  # an interrupt came before it was taken
            self._read_lock.release()

    def become_child(self) -> None:
        """After a fork, in the child: what is open is the parent's and tells untruths."""
        left = [each for each in (self._reader, self._writer) if each is not None]
        _inherited.extend(left)
        if left or self._in_use:
            _untrue.add(self._identity)
        self._reader = self._writer = None
        self._in_use = False
        self._closing = 0
        # The lock may be held by a lost thread.
        self._read_lock = threading.RLock()
        self.has_written = False


_databases: weakref.WeakSet[Database] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # Also those that another thread was just opening.
    for database in members(_databases):
        database.become_child()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _uri_quoted(path: str) -> str:
    from urllib.parse import quote

    return quote(os.fsencode(path))
