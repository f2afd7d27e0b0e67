"""The records of leases: one function per transaction, each with its event.

Owns the statements that grant, extend, end and take away a lease. The key of
the table is the artifact, so at most one lease is recorded for each (I3); the
epoch in the artifact's row grows in the transaction that takes ownership away
(I4). Judges nothing: leasing does. What changes anything is called under the gate.
"""

from __future__ import annotations

from coherent_volume import events
from coherent_volume.database import Connection, Database
from coherent_volume.model import ArtifactKey
from coherent_volume.records import ArtifactRow, EventRow, LeaseRow, artifact_checksum

__all__ = ["all_leases", "extend", "grant", "lease_of", "release", "take_away"]

_COLUMNS = "l.artifact, l.session, l.hold, l.epoch, l.since, l.until_ns, l.boot, l.until"


def grant(
    database: Database, lease: LeaseRow, row: ArtifactRow, observer: str | None, event: EventRow
) -> None:
    """Record *lease* and its epoch.

    A named session whose view was current under the old epoch keeps it.
    """
    with database.transaction(durable=True) as connection:
        _set_epoch(connection, row, lease.epoch)
        connection.execute("INSERT OR REPLACE INTO lease VALUES (?, ?, ?, ?, ?, ?, ?, ?)", lease)
        if observer is not None:
            connection.execute(
                "UPDATE observation SET epoch=? WHERE session=? AND artifact=? AND epoch=?",
                (lease.epoch, observer, row.id, row.epoch),
            )
        events.append(connection, event)


def extend(database: Database, lease: LeaseRow) -> None:
    """Move the end of a lease; no event, because a holder may renew every second."""
    with database.transaction(durable=False) as connection:
        connection.execute(
            "UPDATE lease SET until_ns=?, until=?, boot=? WHERE artifact=?",
            (lease.until_ns, lease.until, lease.boot, lease.artifact),
        )


def take_away(database: Database, row: ArtifactRow, event: EventRow) -> None:
    """End the lease of *row* and take ownership from its holder (I4)."""
    with database.transaction(durable=True) as connection:
        _set_epoch(connection, row, row.epoch + 1)
        connection.execute("DELETE FROM lease WHERE artifact=?", (row.id,))
        events.append(connection, event)


def release(database: Database, lease: LeaseRow, event: EventRow) -> None:
    """End exactly this lease; a later one is left alone."""
    with database.transaction(durable=False) as connection:
        done = connection.execute(
            "DELETE FROM lease WHERE artifact=? AND hold=? AND session=? AND epoch=?",
            (lease.artifact, lease.hold, lease.session, lease.epoch),
        )
        if done.rowcount:
            events.append(connection, event)


def lease_of(database: Database, key: ArtifactKey) -> LeaseRow | None:
    """The lease of *key* as recorded now, live or not; the gate is not needed."""
    row = database.read_one(
        f"SELECT {_COLUMNS} FROM lease l JOIN artifact a ON a.id = l.artifact WHERE a.path=?",
        (key,),
    )
    return None if row is None else LeaseRow(*row)


def all_leases(database: Database) -> list[tuple[ArtifactKey, LeaseRow]]:
    """Every lease that is recorded, live or not, in the order of the paths."""
    rows = database.read(
        f"SELECT a.path, {_COLUMNS} FROM lease l JOIN artifact a ON a.id = l.artifact"
        " ORDER BY a.path"
    )
    return [(ArtifactKey(row[0]), LeaseRow(*row[1:])) for row in rows]


def _set_epoch(connection: Connection, row: ArtifactRow, epoch: int) -> None:
    checksum = artifact_checksum(row.key, row.generation, row.digest, row.size, epoch, row.boot)
    connection.execute(
        "UPDATE artifact SET epoch=?, checksum=? WHERE id=?", (epoch, checksum, row.id)
    )
