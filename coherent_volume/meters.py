"""Meters: what happened in this process, counted, and the sums of all processes.

Owns the counters and the table that keeps them. Counting is an addition in
memory and never touches the disk; the sums are written now and then beside
other work under the gate, and at close. A process that is killed takes with it
what it had not written, and one that only read a little writes nothing at all:
a metric is an indication, never an account.
"""

from __future__ import annotations

import threading
import time

from coherent_volume.database import Database

__all__ = ["FLUSH_S", "Meters", "fold", "has_old", "sums"]

FLUSH_S = 5.0
_WORTH_A_WRITE = 256
"""A process that wrote nothing else writes its counters only if there are this many."""
_SESSIONS_MAX = 1_000
OTHERS = "others"
"""The session that takes over the counters of those long gone."""

Counts = dict[tuple[str, str], float]


class Meters:
    """The counters of one volume object since they were last written."""

    __slots__ = (
        "_accounted",
        "_counts",
        "_flushed",
        "_lock",
        "_unchanged_hits",
        "_view",
        "_view_bytes",
        "read_hits",
    )

    def __init__(self) -> None:
        # Protects the counts from threads that count at one time. Reentrant, as all
        # such locks here, for a signal handler that uses the volume. Not
        # ``read_hits``: a read from memory pays for one addition and no lock,
        # and now and then one is lost between threads.
        self._lock = threading.RLock()
        self._counts: Counts = {}
        self._flushed = time.monotonic()
        self.read_hits = 0
        # What every read would bring if it brought all that was read before: the
        # baseline of the savings. Reads from memory are accounted for later.
        self._view: dict[bytes, int] = {}
        self._view_bytes = 0
        self._accounted = 0
        self._unchanged_hits = 0

    def count(self, name: str, amount: float = 1, label: str = "") -> None:
        """Add *amount* to the counter *name* (of the reason *label*)."""
        with self._lock:
            self._add(name, amount, label)

    def _add(self, name: str, amount: float, label: str = "") -> None:
        self._counts[name, label] = self._counts.get((name, label), 0) + amount

    def count_read(self, key: bytes, size: int) -> None:
        """A file was read: *size* bytes of content."""
        with self._lock:
            self._account()
            self._view_bytes += size - self._view.get(key, 0)
            self._view[key] = size
            self._add("read_misses", 1)
            self._add("read_bytes", size)
            self._add("broadcast_bytes", self._view_bytes)

    def count_unchanged(self, size: int, *, from_memory: bool) -> None:
        """Content of *size* bytes was not handed over, because it was known."""
        with self._lock:
            self._add("unchanged_replies", 1)
            self._add("unchanged_bytes_saved", size)
            if from_memory:
                self._unchanged_hits += 1
                self._add("unchanged_hit_bytes", size)

    def _account(self) -> None:
        """Account for the reads from memory since the last time.

        A read from memory pays for one addition and no more, so which file it was
        of is not known: it counts with the mean size of what was read.
        """
        hits = max(0, self.read_hits - self._accounted)
        plain = max(0, hits - self._unchanged_hits)
        self._accounted, self._unchanged_hits = self.read_hits, 0
        if hits and self._view_bytes:
            self._add("broadcast_bytes", hits * self._view_bytes)
        if plain and self._view_bytes:
            self._add("repeated_bytes", plain * self._view_bytes / len(self._view))

    def counts(self) -> Counts:
        """What was counted and not written yet."""
        with self._lock:
            self._account()
            found = dict(self._counts)
        if self.read_hits:
            found["read_hits", ""] = self.read_hits
        return found

    @property
    def is_due(self) -> bool:
        """Whether the counters should be written beside other work."""
        return time.monotonic() - self._flushed > FLUSH_S and bool(self._counts or self.read_hits)

    def flush(self, database: Database, session: str, *, closing: bool = False) -> None:
        """Gated: add the counters to those of *session*, and begin anew at zero."""
        found = self.counts()
        few = sum(value for value in found.values()) < _WORTH_A_WRITE
        if not found or (closing and few and not database.has_written):
            return
        now = time.time_ns()
        with database.transaction(durable=False) as connection:
            connection.executemany(
                "INSERT INTO metric VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE"
                " SET value = value + excluded.value, at = excluded.at",
                [(session, name, label, value, now) for (name, label), value in found.items()],
            )
        with self._lock:
            self._flushed = time.monotonic()
            for each, value in found.items():
                if each == ("read_hits", ""):
                    self.read_hits -= int(value)
                    self._accounted -= int(value)
                elif self._counts[each] == value:
                    del self._counts[each]
                else:
                    self._counts[each] -= value

    def become_child(self) -> None:
        """After a fork, in the child: what was counted is the parent's to tell."""
        self.__init__()  # type: ignore[misc]


def sums(database: Database) -> list[tuple[str, str, str, float]]:
    """(session, name, label, value) of everything that was written."""
    rows = database.read("SELECT session, name, label, value FROM metric ORDER BY 2, 1, 3")
    return [(str(row[0]), str(row[1]), str(row[2]), float(row[3])) for row in rows]


def has_old(database: Database, before: int) -> bool:
    """Whether there is something for ``fold`` to add up."""
    rows = database.read(
        "SELECT count(DISTINCT session), min(at) FROM metric WHERE session <> ?", (OTHERS,)
    )
    return bool(rows[0][0] > _SESSIONS_MAX or (rows[0][1] or before) < before)


def fold(database: Database, before: int) -> None:
    """Gated: add up the counters of sessions long gone under one name.

    Sums over all sessions stay what they are; only who it was is forgotten.
    """
    gone = (
        "SELECT session FROM metric WHERE session <> ?1 GROUP BY session"
        " HAVING max(at) < ?2 OR session NOT IN (SELECT session FROM metric GROUP BY session"
        " ORDER BY max(at) DESC LIMIT ?3)"
    )
    with database.transaction(durable=False) as connection:
        names = connection.execute(gone, (OTHERS, before, _SESSIONS_MAX)).fetchall()
        for (name,) in names:
            connection.execute(
                "INSERT INTO metric SELECT ?, name, label, value, at FROM metric WHERE session=?"
                " ON CONFLICT DO UPDATE SET value = value + excluded.value,"
                " at = max(at, excluded.at)",
                (OTHERS, name),
            )
            connection.execute("DELETE FROM metric WHERE session=?", (name,))
