"""Repairs of the sidecar: the statements that only a check with repair may run.

One function per transaction, under the gate. They give up what cannot be
believed and never lower a number.
"""

from __future__ import annotations

from collections.abc import Sequence

from coherent_volume.database import Database, Row
from coherent_volume.database_files import salvage as salvaged
from coherent_volume.digest import row_checksum
from coherent_volume.model import ArtifactKey
from coherent_volume.records import artifact_checksum
from coherent_volume.sidecar import HISTORY_COLUMNS

__all__ = [
    "damaged_installs",
    "drop_content",
    "drop_installs",
    "reset_artifact",
    "restore",
    "salvage",
]

_PLAUSIBLE_GAP = 1 << 20


def reset_artifact(database: Database, key: ArtifactKey, boot: str) -> int:
    """Gated, for repairs: give a damaged row the values of its newest history.

    Returns the highest generation that any record names; 0 when none does.
    """
    with database.transaction(durable=True) as connection:
        raw = connection.execute(
            "SELECT id, generation, epoch FROM artifact WHERE path=?", (key,)
        ).fetchone()
        newest = connection.execute(
            "SELECT generation, digest, size FROM history WHERE artifact=?"
            " ORDER BY generation DESC LIMIT 1",
            (raw[0],),
        ).fetchone() or (0, b"", 0)
        generation, digest, size = newest
        # Above whatever it was: a session that was fenced stays fenced.
        epoch = raw[2] + 1 if 0 <= raw[2] < _PLAUSIBLE_GAP else _PLAUSIBLE_GAP
        checksum = artifact_checksum(key, generation, digest, size, epoch, boot)
        connection.execute(
            "UPDATE artifact SET generation=?, digest=?, size=?, epoch=?, boot=?, checksum=?"
            " WHERE id=?",
            (generation, digest, size, epoch, boot, checksum, raw[0]),
        )
    # A flipped high bit must not carry the count away with it.
    return max(generation, raw[1] if 0 <= raw[1] - generation < _PLAUSIBLE_GAP else 0)


def drop_content(database: Database, key: ArtifactKey, generation: int) -> None:
    """Gated, for repairs: the kept content of a generation is not what it was."""
    with database.transaction(durable=True) as connection:
        connection.execute(
            "UPDATE history SET content=NULL, object=NULL, kind='lost' WHERE generation=?"
            " AND artifact=(SELECT id FROM artifact WHERE path=?)",
            (generation, key),
        )


def damaged_installs(database: Database) -> list[Row]:
    """(artifact, generation) of every install record whose checksum is wrong."""
    return [
        row[:2]
        for row in database.read("SELECT * FROM install")
        if row_checksum(repr(row[:12]).encode()) != row[12]
    ]


def drop_installs(database: Database, damaged: Sequence[Row]) -> None:
    """Forget these records; what is visible is judged without them."""
    with database.transaction(durable=True) as connection:
        connection.executemany("DELETE FROM install WHERE artifact=? AND generation=?", damaged)


def salvage(path: str) -> tuple[list[Row], list[Row]]:
    """Whatever artifacts and generations a damaged database still yields."""
    artifacts, history = salvaged(
        path,
        [
            "SELECT id, path, generation, digest, size, epoch, boot, checksum FROM artifact",
            f"SELECT {HISTORY_COLUMNS}, seq FROM history ORDER BY seq",
        ],
    )
    return artifacts, history


def restore(database: Database, artifacts: Sequence[Row], history: Sequence[Row]) -> None:
    """Gated: fill an empty sidecar with salvaged rows that were found sound."""
    with database.transaction(durable=True) as connection:
        connection.executemany(
            "INSERT OR IGNORE INTO artifact VALUES (?, ?, ?, ?, ?, ?, ?, ?)", artifacts
        )
        connection.executemany(
            # With their numbers: members of one commit are linked by them.
            f"INSERT OR IGNORE INTO history ({HISTORY_COLUMNS}, seq)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            history,
        )
