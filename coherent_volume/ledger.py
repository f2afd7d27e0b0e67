"""The ledger: what the sidecar remembers of the past; SELECT statements only.

Owns the reading side of history, of the observations of named sessions and of
the summaries. Changes nothing; may be used without the gate.
"""

from __future__ import annotations

from collections.abc import Sequence

from coherent_volume.database import Database, Row
from coherent_volume.model import ArtifactKey, Digest
from coherent_volume.records import OUTSIDE, HistoryRow, SeenRow

__all__ = ["Ledger"]

_KEYS_MAX = 30_000  # SQLite takes at most 32,766 values

_HISTORY = (
    "SELECT h.seq, a.path, h.generation, h.base, h.kind, h.session, h.at, h.digest, h.size,"
    " h.companions, h.members, h.saw, h.object FROM history h JOIN artifact a ON a.id = h.artifact"
)


class Ledger:
    """The past of one volume."""

    def __init__(self, database: Database) -> None:
        self.database = database

    # ── content and history ──────────────────────────────────────────────────

    def content(
        self, artifact: int, generation: int
    ) -> tuple[bytes | None, str | None, Digest] | None:
        """(content, object, digest) of a generation, None when they are not kept."""
        row = self.database.read_one(
            "SELECT content, object, digest FROM history WHERE artifact=? AND generation=?"
            " AND (content IS NOT NULL OR object IS NOT NULL OR size = 0)",
            (artifact, generation),
        )
        return None if row is None else (row[0], row[1], Digest(row[2]))

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

    def newest(self) -> int:
        """The sequence number of the newest commit of the volume."""
        row = self.database.read_one("SELECT max(seq) FROM history", ())
        return int(row[0] or 0) if row else 0

    def heads(self, keys: Sequence[ArtifactKey]) -> dict[ArtifactKey, SeenRow]:
        """Generation, digest and epoch of those of *keys* that have a row.

        At one moment, for as many as one statement takes.
        """
        found: dict[ArtifactKey, SeenRow] = {}
        for start in range(0, len(keys), _KEYS_MAX):
            some = [bytes(key) for key in keys[start : start + _KEYS_MAX]]
            marks = ", ".join("?" * len(some))
            rows = self.database.read(
                f"SELECT path, generation, digest, epoch FROM artifact WHERE path IN ({marks})",
                some,
            )
            found |= {ArtifactKey(r[0]): SeenRow(r[1], Digest(r[2]), r[3]) for r in rows}
        return found

    def unfinished_companions(self, artifact: int, generation: int) -> list[ArtifactKey]:
        """The other members of the commit of this generation that may not be installed."""
        rows = self.database.read(
            # In this order: few installs are unfinished, and the history is long.
            "SELECT a.path FROM history o CROSS JOIN install i"
            " CROSS JOIN history h ON h.artifact = i.artifact AND h.generation = i.generation"
            " CROSS JOIN artifact a ON a.id = h.artifact"
            " WHERE o.artifact=? AND o.generation=? AND h.artifact <> o.artifact"
            " AND max(h.companions, h.seq * (h.companions = 0))"
            " = max(o.companions, o.seq * (o.companions = 0))",
            (artifact, generation),
        )
        return [ArtifactKey(row[0]) for row in rows]

    def last_commit(self, session: str) -> list[HistoryRow]:
        """The kept generations of the newest commit of *session*, in their order."""
        row = self.database.read_one(
            "SELECT max(companions, seq * (companions = 0)) FROM history"
            " WHERE session=? AND generation > 0 ORDER BY seq DESC LIMIT 1",
            (session,),
        )
        if row is None:
            return []
        rows = self.database.read(
            f"{_HISTORY} WHERE h.seq >= ? AND (h.seq = ? OR h.companions = ?) ORDER BY h.seq",
            (row[0],) * 3,
        )
        return [_history(each) for each in rows]

    def kept_range(self, artifact: int) -> tuple[int, int] | None:
        """The oldest and the newest kept generation of *artifact*."""
        row = self.database.read_one(
            "SELECT min(generation), max(generation) FROM history WHERE artifact=?", (artifact,)
        )
        return None if row is None or row[0] is None else (row[0], row[1])

    def made_since(self, at: int, session: str) -> list[HistoryRow]:
        """What *session* made since a moment (UTC, nanoseconds), oldest first."""
        rows = self.database.read(
            f"{_HISTORY} WHERE h.at >= ? AND h.session=? AND h.generation > 0 ORDER BY h.seq",
            (at, session),
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
    head, digest, tail = row[2:7], Digest(row[7]), row[8:]
    return HistoryRow._make((row[0], ArtifactKey(row[1]), *head, digest, *tail))
