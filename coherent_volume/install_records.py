"""The records of installs: what is under way between staging and the visible tree.

Owns the rows of the table ``install``, each of them one generation that is not yet
known to be complete, durable and cleaned up, under a checksum. Judges nothing, and
begins no transaction: the sidecar does.
"""

from __future__ import annotations

from collections.abc import Sequence

from coherent_volume.database import Connection, Row
from coherent_volume.digest import row_checksum
from coherent_volume.errors import DamagedError
from coherent_volume.model import Digest
from coherent_volume.records import InstallRow, Previous, Staged

__all__ = ["SELECT", "delete", "insert", "install_of"]

SELECT = (
    "SELECT artifact, generation, stage, staged_inode, staged_mtime_ns, previous_inode,"
    " previous_mtime_ns, previous_ctime_ns, previous_size, previous_digest, boot, started_ns,"
    " checksum"
    " FROM install"
)


def install_of(row: Row) -> InstallRow:
    """The record that *row* holds; DamagedError for one that was changed on the disk."""
    if row_checksum(repr(row[:12]).encode()) != row[12]:
        # A flipped bit here could take our own displaced file for an outsider's.
        raise DamagedError("the sidecar's record of an install is damaged")
    return InstallRow(
        artifact=row[0],
        generation=row[1],
        stage=row[2],
        staged=None if row[3] is None else Staged(row[3], row[4]),
        previous=None if row[5] is None else Previous(row[5], row[6], row[7], row[8]),
        previous_digest=Digest(row[9]),
        boot=row[10],
        started_ns=row[11],
    )


def insert(connection: Connection, new: InstallRow, artifact: int | None = None) -> None:
    """Record *new*, of *artifact* if that had no row when the install was planned."""
    staged = new.staged or (None, None)
    previous = new.previous or (None, None, None, None)
    fields = (
        new.artifact if artifact is None else artifact,
        new.generation,
        new.stage,
        *staged,
        *previous,
        bytes(new.previous_digest),
        new.boot,
        new.started_ns,
    )
    connection.execute(
        "INSERT OR REPLACE INTO install VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*fields, row_checksum(repr(fields).encode())),
    )


def delete(connection: Connection, installs: Sequence[InstallRow]) -> None:
    """Forget *installs*, and nothing that has taken their place."""
    # The stage too: a name may have been used again, for another install.
    connection.executemany(
        "DELETE FROM install WHERE artifact=? AND generation=? AND stage=?",
        [(install.artifact, install.generation, install.stage) for install in installs],
    )
