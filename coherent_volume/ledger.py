"""The ledger: what the sidecar remembers of the past; SELECT statements only.

Owns the reading side of history, of the observations of named sessions and of
the summaries. Changes nothing; may be used without the gate.
"""

from __future__ import annotations

from coherent_volume.database import Database, Row
from coherent_volume.model import ArtifactKey, Digest
from coherent_volume.records import OUTSIDE, HistoryRow, SeenRow

__all__ = ["Ledger"]

_HISTORY = (
    "SELECT h.seq, a.path, h.generation, h.base, h.kind, h.session, h.at, h.digest, h.size,"
    " h.companions, h.object FROM history h JOIN artifact a ON a.id = h.artifact"
)


class Ledger:
    """The past of one volume."""

    def __init__(self, database: Database) -> None:
        self.database = database

    # ── content and history ──────────────────────────────────────────────────

    def content(self, artifact: int, generation: int) -> tuple[bytes | None, str | None] | None:
        """(content, object) of a generation, None when they are not kept."""
        row = self.database.read_one(
            "SELECT content, object FROM history WHERE artifact=? AND generation=?"
            " AND (content IS NOT NULL OR object IS NOT NULL OR size = 0)",
            (artifact, generation),
        )
        return None if row is None else (row[0], row[1])

    def generation(self, artifact: int, generation: int) -> HistoryRow | None:
        """One generation's record, or None when it is pruned."""
        row = self.database.read_one(
            f"{_HISTORY} WHERE h.artifact=? AND h.generation=?", (artifact, generation)
        )
        return None if row is None else _history(row)

    def knows_digest(self, artifact: int, digest: Digest) -> bool:
        """Whether some kept generation of *artifact* has exactly this content."""
        row = self.database.read_one(
            "SELECT 1 FROM history WHERE artifact=? AND digest=? LIMIT 1", (artifact, digest)
        )
        return row is not None

    def key_of(self, artifact: int) -> ArtifactKey | None:
        """The path of an artifact's row."""
        row = self.database.read_one("SELECT path FROM artifact WHERE id=?", (artifact,))
        return None if row is None else ArtifactKey(row[0])

    def history(self, key: ArtifactKey | None, limit: int | None) -> list[HistoryRow]:
        """Generations, newest first, of one artifact or of all."""
        bound = -1 if limit is None else max(0, min(limit, 1 << 62))
        if key is None:
            rows = self.database.read(f"{_HISTORY} ORDER BY h.seq DESC LIMIT ?", (bound,))
        else:
            rows = self.database.read(
                f"{_HISTORY} WHERE a.path=? ORDER BY h.seq DESC LIMIT ?", (key, bound)
            )
        return [_history(row) for row in rows]

    def keys(self) -> list[ArtifactKey]:
        """Every artifact that has a row, in the order of the paths."""
        rows = self.database.read("SELECT path FROM artifact ORDER BY path")
        return [ArtifactKey(row[0]) for row in rows]

    def objects(self) -> set[str]:
        """Names of all objects that some generation needs."""
        rows = self.database.read("SELECT object FROM history WHERE object IS NOT NULL")
        return {str(row[0]) for row in rows}

    def counts(self) -> tuple[int, int, int]:
        """(existing artifacts, commits, foreign edits)."""
        existing = self.database.read("SELECT count(*) FROM artifact WHERE digest <> x''")
        commits = self.database.read(
            "SELECT count(*), coalesce(sum(session = ?), 0) FROM history WHERE generation > 0",
            (OUTSIDE,),
        )
        return int(existing[0][0]), int(commits[0][0] - commits[0][1]), int(commits[0][1])

    # ── observations of named sessions ───────────────────────────────────────

    def observation(self, session: str, key: ArtifactKey) -> SeenRow | None:
        """What a named session last saw of *key*."""
        row = self.database.read_one(
            "SELECT o.generation, o.digest, o.epoch FROM observation o JOIN artifact a"
            " ON a.id = o.artifact WHERE o.session=? AND a.path=?",
            (session, key),
        )
        return None if row is None else SeenRow(row[0], Digest(row[1]), row[2])

    def observations(self, session: str) -> list[tuple[ArtifactKey, SeenRow]]:
        """Everything that a named session has seen."""
        rows = self.database.read(
            "SELECT a.path, o.generation, o.digest, o.epoch FROM observation o JOIN artifact a"
            " ON a.id = o.artifact WHERE o.session=? ORDER BY a.path",
            (session,),
        )
        return [(ArtifactKey(r[0]), SeenRow(r[1], Digest(r[2]), r[3])) for r in rows]

    # ── what a session was told ──────────────────────────────────────────────

    def makers(self, artifact: int, after: int, most: int) -> list[tuple[str, str, int]]:
        """(session, kind, time) of the newest generations above one, oldest first."""
        rows = self.database.read(
            "SELECT session, kind, at FROM history WHERE artifact=? AND generation>?"
            " ORDER BY generation DESC LIMIT ?",
            (artifact, after, most),
        )
        return [(str(row[0]), str(row[1]), int(row[2])) for row in reversed(rows)]

    def told(self, session: str) -> dict[ArtifactKey, int]:
        """The heads that a named session was told about."""
        rows = self.database.read(
            "SELECT a.path, t.generation FROM told t JOIN artifact a ON a.id = t.artifact"
            " WHERE t.session=?",
            (session,),
        )
        return {ArtifactKey(row[0]): int(row[1]) for row in rows}

    # ── summaries ────────────────────────────────────────────────────────────

    def session_summaries(self) -> list[tuple[str, int, int]]:
        """(session, artifacts observed, of these behind the current generation)."""
        rows = self.database.read(
            "SELECT o.session, count(*), sum(o.generation < a.generation AND o.digest <> a.digest)"
            " FROM observation o JOIN artifact a ON a.id = o.artifact GROUP BY o.session"
        )
        return [(str(r[0]), int(r[1]), int(r[2])) for r in rows]

    def commit_summaries(self) -> list[tuple[str, int, int]]:
        """(session, commits, time of the last one in UTC nanoseconds)."""
        rows = self.database.read(
            "SELECT session, count(*), max(at) FROM history WHERE generation > 0 GROUP BY session"
        )
        return [(str(r[0]), int(r[1]), int(r[2])) for r in rows]


def _history(row: Row) -> HistoryRow:
    seq, path, generation, base, kind, session, at, digest, size, companions, stored = row
    return HistoryRow(
        seq,
        ArtifactKey(path),
        generation,
        base,
        kind,
        session,
        at,
        Digest(digest),
        size,
        companions,
        stored,
    )
