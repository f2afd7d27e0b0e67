"""Events: what happened and is no generation, and the one order of everything.

Owns the numbers of the feed and the table of events. History and events share
one sequence without gaps: every row of either takes the number after the
highest of both, inside its own transaction. So a number that stands in neither
table was pruned, and nobody has to remember how far. The newest event is never
pruned, nor is the head of any artifact, so no number is given out twice.
Decides nothing about leases or refusals; their modules say what happened.
"""

from __future__ import annotations

import time

from coherent_volume.database import Connection, Database
from coherent_volume.model import ArtifactKey, Digest
from coherent_volume.records import EventRow, FeedRow

__all__ = [
    "EVENTS_MAX",
    "NEXT_SEQ",
    "append",
    "feed_after",
    "feed_id",
    "has_old",
    "known_outside",
    "newest",
    "prune",
]

EVENTS_MAX = 10_000
"""How many events are kept; the oldest go first."""
_PRUNED_EVERY = 256
_SCATTER = 0x9E3779B1

NEXT_SEQ = (
    "(SELECT max(coalesce((SELECT max(seq) FROM history), 0),"
    " coalesce((SELECT max(seq) FROM event), 0)) + 1)"
)
"""The next number, as an SQL expression: two look-ups at the ends of two keys."""

_AFTER = (
    "SELECT h.seq AS seq, h.at, h.kind, h.session, a.path, h.generation, h.base, h.size, h.digest,"
    " '' FROM history h JOIN artifact a ON a.id = h.artifact WHERE h.seq > ?1"
    " UNION ALL SELECT seq, at, kind, session, path, generation, 0, 0, x'', detail FROM event"
    " WHERE seq > ?1 ORDER BY seq LIMIT ?2"
)


def append(connection: Connection, event: EventRow) -> None:
    """Gated, inside a transaction: number *event* and keep it."""
    seq = connection.execute(
        f"INSERT INTO event VALUES ({NEXT_SEQ}, ?, ?, ?, ?, ?, ?) RETURNING seq",
        (time.time_ns(), event.kind, event.session, event.key, event.generation, event.detail),
    ).fetchone()[0]
    # Scattered over the numbers: commits and events may alternate in any rhythm.
    if (seq * _SCATTER >> 16) % _PRUNED_EVERY == 0:
        _prune_number(connection)


def _prune_number(connection: Connection) -> None:
    connection.execute(
        "DELETE FROM event WHERE seq <= (SELECT seq FROM event ORDER BY seq DESC LIMIT 1 OFFSET ?)",
        (EVENTS_MAX,),
    )


def prune(database: Database, before: int) -> None:
    """Gated: drop what is too much, and all but the newest from before a moment."""
    with database.transaction(durable=False) as connection:
        _prune_number(connection)
        connection.execute(
            "DELETE FROM event WHERE at < ? AND seq < (SELECT max(seq) FROM event)", (before,)
        )


def has_old(database: Database, before: int) -> bool:
    """Whether there is something for ``prune`` to drop."""
    rows = database.read(
        "SELECT (SELECT at < ?1 AND (SELECT count(*) > 1 FROM (SELECT 1 FROM event LIMIT 2))"
        " FROM event ORDER BY seq LIMIT 1),"
        " EXISTS (SELECT 1 FROM event ORDER BY seq DESC LIMIT 1 OFFSET ?2)",
        (before, EVENTS_MAX),
    )
    return any(rows[0])


def known_outside(database: Database, key: ArtifactKey) -> str | None:
    """The digest of the last outside change of a file without records, if it is kept."""
    row = database.read_one(
        "SELECT detail FROM event WHERE path=? AND kind='foreign' ORDER BY seq DESC LIMIT 1", (key,)
    )
    return None if row is None else str(row[0])


def feed_after(database: Database, seq: int, limit: int) -> list[FeedRow]:
    """The first *limit* rows of the feed after number *seq*, in one snapshot."""
    return [
        FeedRow(*row)._replace(key=ArtifactKey(row[4]), digest=Digest(row[8]))
        for row in database.read(_AFTER, (seq, limit))
    ]


def newest(database: Database) -> int:
    """The highest number given out."""
    return int(database.read(f"SELECT {NEXT_SEQ} - 1")[0][0])


def feed_id(database: Database) -> str:
    """What tells the numbers of this sidecar from those of another."""
    row = database.read_one("SELECT value FROM meta WHERE name=?", ("feed",))
    return "" if row is None else str(row[0])
