"""Connections to the sidecar database: opening, transactions, typed failures.

Owns sqlite3: no other module imports it. Knows no table. Two connections per
process: one reads outside the gate, one works under it. They are separate
because a statement on a shared connection would see the other thread's
uncommitted rows.

Rules that keep SQLite itself sound:
- Writing, checkpoints and closing happen under the volume's gate. SQLite's busy
  handler polls and starves, and two connections that write and checkpoint at
  one time can lose a write in versions before 3.51.3.
- Closing any other descriptor of the database files in this process drops SQLite's
  own locks. The library opens none; against all other code a ``Guard`` stands.
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

from coherent_volume.database_files import APPLICATION_ID, connect
from coherent_volume.errors import ClosedError, DamagedError, StorageError
from coherent_volume.guard import Guard
from coherent_volume.model import Durability
from coherent_volume.sql_errors import (
    FAILURES,
    check_version,
    typed,
    typed_error,
)
from coherent_volume.sql_transaction import Transaction
from coherent_volume.weak import members

__all__ = ["Connection", "Database", "Reader", "Row"]

Connection = sqlite3.Connection

Row = tuple[Any, ...]

Reader = Callable[[str, Sequence[object]], list[Row]]
"""Rows of a statement with its values."""

_BUSY_TIMEOUT_S = 5.0  # only recovery after a crash ever makes a statement wait
_IN_USE_WAIT_S = 2.0
_IN_USE_POLL_S = 0.001

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
        self._guard: Guard | None = None  # as long as one of them is open
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
            check_version(self._reader, APPLICATION_ID, schema_version)
        self._in_use = False

    def _connect(self) -> sqlite3.Connection:
        if self._identity in _untrue:
            raise ClosedError(
                "this process was forked while another thread was using the volume's records",
                advice="Fork while no other thread uses the volume, or start the process with"
                " subprocess or the method spawn.",
            )
        # One opening or closing of this process at a time: see _retire.
        with _opening:
            # Before SQLite opens it: from here on no peer takes the log away.
            guard = self._guard or Guard(self.path)
            try:
                connection = connect(self.path, _BUSY_TIMEOUT_S)
                if guard is not self._guard:
                    guard.complete()
                    self._guard = guard
            except BaseException:
                if guard is not self._guard:
                    self._retire(guard)
                raise
        return connection

    def _retire(self, guard: Guard) -> None:
        """Let go of a guard of which no connection is left.

        To close its descriptors drops the locks that SQLite has for other connections
        of this process, so they are left to whoever has one.
        """
        guard.unlock()
        for other in members(_databases):
            heir = other._guard if other._identity == self._identity else None
            if heir is not None and heir is not guard:
                return heir.keep_open(guard)
        return guard.close()

    def _look(self) -> tuple[int, int]:
        found = os.stat(self.path)
        return found.st_dev, found.st_ino

    def verify(self) -> None:
        """Raise DamagedError unless database and log are still the files we opened.

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
        guard = self._guard
        if guard is not None and not guard.is_intact():
            # Not opened anew: what we and our peers committed since stands in two logs.
            raise DamagedError("the sidecar's log was deleted while this session was open")

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
        """The connection for use under the gate, in no transaction; it sees what it wrote."""
        self._in_use = True
        while self._closing and self._closing != threading.get_ident():
            self._in_use = False
            with self._read_lock:
                pass  # until the fork is over
            self._in_use = True
        if self._writer is None:
            with typed("open the sidecar"):
                writer = self._connect()
                writer.execute(f"PRAGMA synchronous={self._synchronous}")
                self._relaxed = False
                self.has_written = True
                self._writer = writer
        elif self._writer.in_transaction:
            # An interrupt left it open. What it did is visible here, and stands nowhere.
            self._roll_back(self._writer)
        return self._writer

    def gated(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """Rows of *sql*; under the gate, so nothing changes them; in no transaction."""
        try:
            return self._opened_writer().execute(sql, values).fetchall()
        except FAILURES as error:
            raise typed_error(error, "read the sidecar") from error
        finally:
            self._in_use = False

    def transaction(self, *, durable: bool) -> Transaction:
        """One transaction under the gate: all of the block, or nothing.

        *durable* says whether an acknowledged block must survive a power loss
        (as far as the volume's durability asks for it); housekeeping need not.
        An I/O error of the COMMIT itself raises UnconfirmedError: the log may
        hold the commit although the flush failed, and a flush is never retried.
        """
        return Transaction(self, relaxed=not durable and self._synchronous == "FULL")

    def begin(self, *, relaxed: bool) -> sqlite3.Connection:
        """Start a transaction, under the gate."""
        connection = self._opened_writer()
        if relaxed:
            # Remembered first: an interrupt may come before it is taken back.
            self._relaxed = True
            connection.execute("PRAGMA synchronous=NORMAL")
        elif self._relaxed:
            self._tighten(connection)
        # BEGIN IMMEDIATE, not BEGIN: a deferred transaction that has read
        # cannot be upgraded once a peer commits; SQLite answers
        # BUSY_SNAPSHOT at once and never consults the busy timeout.
        connection.execute("BEGIN IMMEDIATE")
        return connection

    def leave(self) -> None:
        """Under the gate: undo what no commit ended, be it another's or an interrupt's."""
        connection = self._writer
        if connection is not None and _is_amid(connection):
            self._roll_back(connection)
        if connection is not None and self._relaxed:
            with contextlib.suppress(sqlite3.Error):
                self._tighten(connection)
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
        self.verify()  # not with a log that is not the volume's any more
        # A long reader makes it incomplete, which the next one mends.
        mode = "TRUNCATE" if truncate else "RESTART"
        with typed("checkpoint the sidecar"):
            try:
                self._opened_writer().execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
            finally:
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
            time.sleep(_IN_USE_POLL_S)
        with _opening:
            guard, every = self._guard, alone or not self._in_use
            stays = _is_amid(self._reader) or _is_amid(self._writer)
            if guard is not None and alone and not stays and guard.is_intact():
                # The last one to close moves the log into the database and deletes it.
                # Without the gate, or with a log that is not the volume's any more,
                # the lock stays, and keeps this close from doing either.
                guard.unlock()
            self._reader = self._closed(self._reader)
            if every:
                self._writer = self._closed(self._writer)
                self._in_use = self._writer is not None
            if guard is not None and self._reader is self._writer is None:
                self._guard = None
                self._retire(guard)

    @staticmethod
    def _closed(connection: sqlite3.Connection | None) -> sqlite3.Connection | None:
        """Close it, unless this very thread stands in a transaction of it."""
        if _is_amid(connection):
            return connection
        with contextlib.suppress(sqlite3.Error):
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
        if left or self._in_use:
            _inherited.extend(left)
            _untrue.add(self._identity)
        self._reader = self._writer = None
        self._in_use = False
        self._closing = 0
        self._guard = None  # its descriptors are closed already (see descriptors)
        # The lock may be held by a lost thread.
        self._read_lock = threading.RLock()
        self.has_written = False


def _is_amid(connection: sqlite3.Connection | None) -> bool:
    """Whether a transaction is open on it."""
    try:
        return connection is not None and connection.in_transaction
    except sqlite3.Error:
        return False  # closed


_databases: weakref.WeakSet[Database] = weakref.WeakSet()
# Keeps the descriptors of a guard from being closed while another connection of this
# process is opened. Safety rests on it; taken inside the lock of a reading connection.
_opening = threading.RLock()


def _after_fork_in_child() -> None:
    global _opening  # noqa: PLW0603 - it may be held by a lost thread
    _opening = threading.RLock()
    # Also those that another thread was just opening.
    for database in members(_databases):
        database.become_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
