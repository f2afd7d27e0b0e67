"""The sidecar: every SQL statement, one function per transaction.

Owns what the tables mean (``schema.sql``) and nothing of the protocol's
judgement. The COMMIT inside ``publish`` is the commit point of the whole
product: before it no peer can see the write, after it no crash can lose it.
Functions with ``gated`` in their promise are called under the volume's gate.
Upholds I2 and I3: a generation is inserted once, one above the row's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from coherent_volume import database_files, install_records
from coherent_volume.config import Retention
from coherent_volume.database import Connection, Database, Row
from coherent_volume.errors import DamagedError
from coherent_volume.events import NEXT_SEQ
from coherent_volume.ledger import Ledger
from coherent_volume.model import ArtifactKey, Digest, Durability
from coherent_volume.records import (
    OUTSIDE,
    ArtifactRow,
    InstallRow,
    LeaseRow,
    Publication,
    SeenRow,
    Sweep,
    ViewRow,
    artifact_checksum,
)

__all__ = ["HISTORY_COLUMNS", "SCHEMA_VERSION", "Sidecar"]

SCHEMA_VERSION = 1
_SWEPT = "swept"
_BATCH = 16
"""Generous bounds are enforced at every 16th commit of an artifact, in one go;
smaller ones exactly, at every commit."""

_ARTIFACT = "SELECT id, generation, digest, size, epoch, boot, checksum FROM artifact WHERE path=?"
_CURRENT = (
    "SELECT a.id, a.generation, a.digest, a.size, a.epoch, a.boot, a.checksum,"
    " EXISTS (SELECT 1 FROM lease l WHERE l.artifact = a.id), i.* FROM artifact a"
    " LEFT JOIN install i ON i.artifact = a.id AND i.generation = a.generation WHERE a.path=?"
)
_AGED = (
    "SELECT h.seq FROM history h JOIN artifact a ON a.id = h.artifact"
    " WHERE h.at < ? AND h.generation < a.generation ORDER BY h.seq LIMIT ?"
)
HISTORY_COLUMNS = (
    "artifact, generation, base, kind, session, at, digest, size, companions, members, saw, object,"
    " content"
)


class Sidecar(Ledger):
    """The records of one volume: what changes them, and the rows of now."""

    def __init__(self, path: str, durability: Durability) -> None:
        super().__init__(Database(path, durability, SCHEMA_VERSION))

    @staticmethod
    def create(path: str, incarnation: str) -> None:
        """Make an empty sidecar, complete or not at all."""
        from importlib import resources

        schema = resources.files(__package__).joinpath("schema.sql").read_text(encoding="utf-8")
        database_files.create(path, schema, SCHEMA_VERSION, {"incarnation": incarnation})

    def incarnation(self) -> str:
        """The uuid of this sidecar's life, as its own records say."""
        row = self.database.read_one("SELECT value FROM meta WHERE name=?", ("incarnation",))
        if row is None:
            raise DamagedError("the sidecar has lost its incarnation")
        return str(row[0])

    # ── artifacts ────────────────────────────────────────────────────────────

    def artifact(self, key: ArtifactKey) -> ArtifactRow | None:
        """The row of *key* as committed now, or None; checksum verified."""
        row = self.database.read_one(_ARTIFACT, (key,))
        return None if row is None else _artifact(key, row)

    def current(
        self, key: ArtifactKey, *, gated: bool
    ) -> tuple[ArtifactRow | None, InstallRow | None]:
        """The row of *key*, and the install of its generation if one is recorded."""
        if gated:
            rows = self.database.gated(_CURRENT, (key,))
            row = rows[0] if rows else None
        else:
            row = self.database.read_one(_CURRENT, (key,))
        if row is None:
            return None, None
        artifact = _artifact(key, row[:7])
        if row[7]:
            artifact = artifact._replace(leased=True)
        return artifact, None if row[8] is None else install_records.install_of(row[8:])

    def last_sweep(self) -> Sweep | None:
        """When what is old was looked for last; None for never."""
        row = self.database.read_one("SELECT value FROM meta WHERE name=?", (_SWEPT,))
        told, machine, boot = str(row[0]).split(" ", 2) if row else ("", "", "")
        return Sweep(int(told), boot, int(machine)) if told.isdecimal() else None

    def note_sweep(self, told_ns: int, boot: str, machine_ns: int) -> None:
        """Gated: what is old was looked for at this moment."""
        with self.database.transaction(durable=False) as connection:
            connection.execute(
                "INSERT OR REPLACE INTO meta VALUES (?, ?)",
                (_SWEPT, f"{told_ns} {machine_ns} {boot}"),
            )

    def has_aged(self, before: int) -> bool:
        """Whether past generations from before a moment are still kept."""
        return bool(self.database.read(_AGED, (before, 1)))

    def installs(self, artifact: int) -> list[InstallRow]:
        """Gated: the installs of *artifact* that are not cleaned up, oldest first."""
        rows = self.database.gated(
            f"{install_records.SELECT} WHERE artifact=? ORDER BY generation", (artifact,)
        )
        return [install_records.install_of(row) for row in rows]

    def all_installs(self) -> list[tuple[ArtifactKey, InstallRow]]:
        """Every install that is not cleaned up, with its artifact's key."""
        rows = self.database.read(
            "SELECT a.path, i.* FROM install i JOIN artifact a ON a.id = i.artifact"
        )
        return [(ArtifactKey(row[0]), install_records.install_of(row[1:])) for row in rows]

    def installs_at(self, stages: Sequence[str]) -> dict[str, int]:
        """Gated: the generation of the newest install that each of *stages* serves."""
        marks = ", ".join("?" * len(stages))
        rows = self.database.gated(
            f"SELECT stage, max(generation) FROM install WHERE stage IN ({marks}) GROUP BY stage",
            tuple(stages),
        )
        return dict(rows)

    def forget_installs(self, installs: Sequence[InstallRow]) -> None:
        """Gated: these installs are complete, durable and cleaned up."""
        with self.database.transaction(durable=False) as connection:
            install_records.delete(connection, installs)

    def replace_installs(self, installs: Sequence[InstallRow], new: InstallRow) -> None:
        """Gated: the current generation will be installed by *new* instead."""
        with self.database.transaction(durable=True) as connection:
            install_records.delete(connection, installs)
            install_records.insert(connection, new)

    # ── leases ───────────────────────────────────────────────────────────────

    def lease(self, artifact: int) -> LeaseRow | None:
        """Gated: the lease of *artifact*, live or not."""
        rows = self.database.gated("SELECT * FROM lease WHERE artifact=?", (artifact,))
        return LeaseRow(*rows[0]) if rows else None

    # ── publishing ───────────────────────────────────────────────────────────

    def publish(
        self, publications: Sequence[Publication], boot: str, retention: Retention
    ) -> tuple[list[int], list[str]]:
        """Gated: make every publication its artifact's next generation, or none.

        Returns the ids of the artifacts' rows, and the names of objects that no
        generation needs any longer. This COMMIT is the commit point.
        """
        rows: list[int] = []
        dropped: list[str] = []
        now = time.time_ns()
        with self.database.transaction(durable=True) as connection:
            commit = (0, len(publications))
            for publication in publications:
                artifact = _advance(connection, publication, boot, now)
                rows.append(artifact)
                seq = _insert_history(connection, publication, artifact, now, commit)
                commit = (commit[0] or seq, commit[1])
                if publication.settles is not None:
                    install_records.delete(connection, [publication.settles])
                if publication.install is not None:
                    install_records.insert(connection, publication.install, artifact)
                if publication.observer is not None:
                    seen = SeenRow(
                        publication.generation,
                        publication.digest,
                        publication.row.epoch if publication.row else 0,
                    )
                    _insert_observation(connection, publication.observer, artifact, seen)
                if publication.kind != "foreign":
                    # An outside edit may follow a commit that it raced, whose
                    # author must still be handed its content.
                    dropped += _prune(connection, publication, artifact, retention)
        return rows, dropped

    def prune_aged(self, before: int, most: int) -> list[str | None]:
        """Gated: drop up to *most* past generations from before a moment.

        Returns one entry for each that was dropped: its object's name, or None.
        Flushed: a power loss must not bring back rows whose objects are gone.
        """
        with self.database.transaction(durable=True) as connection:
            rows = connection.execute(
                f"DELETE FROM history WHERE seq IN ({_AGED}) RETURNING object", (before, most)
            ).fetchall()
        return [row[0] for row in rows]

    def ensure_row(
        self, key: ArtifactKey, digest: Digest, data: bytes | None, size: int, boot: str
    ) -> ArtifactRow:
        """Gated: the row of *key*; generation 0 gets one, so that it can be referred to."""
        row, _ = self.current(key, gated=True)
        return row or self.register(key, digest, data, size, boot)

    def register(
        self, key: ArtifactKey, digest: Digest, content: bytes | None, size: int, boot: str
    ) -> ArtifactRow:
        """Gated: give generation 0 of *key* a row, so that it can be observed."""
        with self.database.transaction(durable=False) as connection:
            artifact = _register(connection, key, digest, content, size, boot)
        return ArtifactRow(artifact, key, 0, digest, size, 0, boot)

    def observe(self, session: str, artifact: int, seen: SeenRow) -> None:
        """Gated: generation and epoch together, after the content was delivered."""
        with self.database.transaction(durable=False) as connection:
            _insert_observation(connection, session, artifact, seen)

    def observe_all(self, session: str, views: Sequence[ViewRow], boot: str) -> None:
        """Gated: as ``ensure_row`` and ``observe``, for many at once."""
        with self.database.transaction(durable=False) as connection:
            for key, seen, data, size in views:
                row = connection.execute("SELECT id FROM artifact WHERE path=?", (key,)).fetchone()
                new = row or (_register(connection, key, seen.digest, data, size, boot),)
                _insert_observation(connection, session, new[0], seen)

    def tell(self, session: str, heads: Mapping[ArtifactKey, int]) -> None:
        """Gated: a named session was told about these heads."""
        with self.database.transaction(durable=False) as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO told SELECT ?, id, ? FROM artifact WHERE path=?",
                [(session, generation, key) for key, generation in heads.items()],
            )


# ── one row at a time ────────────────────────────────────────────────────────


def _artifact(key: ArtifactKey, row: Row) -> ArtifactRow:
    number, generation, digest, size, epoch, boot, checksum = row
    if artifact_checksum(key, generation, digest, size, epoch, boot) != checksum:
        raise DamagedError("the sidecar's record of this artifact is damaged", path=_shown(key))
    return ArtifactRow(number, key, generation, Digest(digest), size, epoch, boot)


def _shown(key: ArtifactKey) -> str:
    return key.decode("utf-8", "surrogateescape")


def _advance(connection: Connection, new: Publication, boot: str, now: int) -> int:
    """Move the artifact's row to the new generation; returns the row's id."""
    epoch = new.row.epoch if new.row else 0
    checksum = artifact_checksum(new.key, new.generation, new.digest, new.size, epoch, boot)
    values = (new.generation, new.digest, new.size, boot, checksum)
    if new.row is not None:
        done = connection.execute(
            "UPDATE artifact SET generation=?, digest=?, size=?, boot=?, checksum=?"
            " WHERE id=? AND generation=? AND epoch=?",
            (*values, new.row.id, new.row.generation, epoch),
        )
        if done.rowcount != 1:
            # Read and write happen under one gate; a row that moved in between
            # means that the gate did not hold. Nothing has been written.
            raise DamagedError("the sidecar changed under the gate", path=_shown(new.key))
        if new.baseline is not None:
            connection.execute(
                "UPDATE history SET content=?, object=? WHERE artifact=? AND generation=0",
                (*new.baseline[2:], new.row.id),
            )
        return new.row.id
    inserted = connection.execute(
        "INSERT INTO artifact (generation, digest, size, boot, checksum, path, epoch)"
        " VALUES (?, ?, ?, ?, ?, ?, 0)",
        (*values, new.key),
    )
    artifact = int(inserted.lastrowid or 0)
    if new.baseline is not None:
        digest, size, content, stored = new.baseline
        baseline = Publication(
            new.key, None, 0, "baseline", OUTSIDE, digest, size, content=content, object=stored
        )
        _insert_history(connection, baseline, artifact, now)
    return artifact


def _register(
    connection: Connection,
    key: ArtifactKey,
    digest: Digest,
    data: bytes | None,
    size: int,
    boot: str,
) -> int:
    """Give generation 0 a row; its id."""
    publication = Publication(key, None, 0, "baseline", OUTSIDE, digest, size, content=data)
    now = time.time_ns()
    artifact = _advance(connection, publication, boot, now)
    _insert_history(connection, publication, artifact, now)
    return artifact


def _insert_history(
    connection: Connection,
    new: Publication,
    artifact: int,
    now: int,
    commit: tuple[int, int] = (0, 1),
) -> int:
    """Add the generation; *commit* is the number of its first member, and how many it has."""
    base = max(new.generation - 1, 0) if new.row is None else new.row.generation
    inserted = connection.execute(
        f"INSERT INTO history (seq, {HISTORY_COLUMNS})"
        f" VALUES ({NEXT_SEQ}, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            artifact,
            new.generation,
            base,
            new.kind,
            new.session,
            now,
            new.digest,
            new.size,
            *commit,
            new.saw,
            new.object,
            new.content,
        ),
    )
    return int(inserted.lastrowid or 0)


def _insert_observation(connection: Connection, session: str, artifact: int, seen: SeenRow) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO observation VALUES (?, ?, ?, ?, ?)",
        (session, artifact, seen.generation, seen.digest, seen.epoch),
    )


def _prune(connection: Connection, new: Publication, artifact: int, keep: Retention) -> list[str]:
    """Drop past generations beyond the bounds; returns their objects' names.

    Those of number and size: what is too old is judged by a clock that was looked
    at twice; see ageing.
    """
    head = new.generation
    if keep.generations >= _BATCH and head % _BATCH and new.object is None:
        return []
    floor = head - keep.generations + 1
    budget = connection.execute(
        "SELECT generation, sum(size) OVER (ORDER BY generation DESC) AS total FROM history"
        " WHERE artifact=? ORDER BY generation DESC",
        (artifact,),
    )
    for generation, total in budget:
        if total > keep.megabytes << 20:
            floor = max(floor, generation + 1)
            break
    doomed = "artifact=? AND generation<>? AND generation<?"
    values = (artifact, head, floor)
    dropped = connection.execute(
        f"SELECT object FROM history WHERE {doomed} AND object IS NOT NULL", values
    ).fetchall()
    connection.execute(f"DELETE FROM history WHERE {doomed}", values)
    return [str(row[0]) for row in dropped]
