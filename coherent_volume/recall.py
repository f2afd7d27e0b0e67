"""Recall: the content and the commits of past generations, for those who were refused.

Owns where the content of an observation is looked for, and in what order: this
process's memory, then the records. SELECT statements only, and bounded: what is
too large is named by its size and never read. Whoever was refused must be able
to see what changed since it looked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from coherent_volume.database import Row
from coherent_volume.digest import digest_of
from coherent_volume.errors import CoherenceError
from coherent_volume.files import WriterPresent, look
from coherent_volume.model import ABSENT_DIGEST, ArtifactKey, Digest
from coherent_volume.parts import VolumeParts
from coherent_volume.records import SeenRow
from coherent_volume.remake import content_of

__all__ = [
    "Content",
    "Passed",
    "Since",
    "content_seen",
    "current_now",
    "generation_of",
    "passed_since",
]

_SHOWN_EACH_END = 10


class Content(NamedTuple):
    """The content of a generation, or why there is none: it is ``lost`` or too large."""

    data: bytes | None
    size: int = 0
    lost: bool = False


class Passed(NamedTuple):
    """One commit: generation, session, kind, time in UTC nanoseconds."""

    generation: int
    session: str
    kind: str
    at: int


class Since(NamedTuple):
    """The commits after a generation, oldest first, and how many are left out.

    ``deleted`` says whether one was a deletion; None: not all of them are on record.
    """

    passed: list[Passed]
    omitted: int
    deleted: bool | None


def content_seen(
    parts: VolumeParts, key: ArtifactKey, seen: SeenRow, most: int, known: bytes | None = None
) -> Content:
    """What *seen* looked like, if it is not above *most* bytes; *known* is a guess.

    By generation, else by digest: equal content is the content, whatever number
    it has. Raises DamagedError, OSError.
    """
    if seen.digest == ABSENT_DIGEST:
        return Content(b"")
    remembered = known
    if known is None or digest_of(known) != seen.digest:
        remembered = parts.session.unrecorded.get(seen.digest)
    if remembered is not None:
        return Content(remembered if len(remembered) <= most else None, len(remembered))
    rows = parts.sidecar.database.read(
        "SELECT h.artifact, h.generation, h.size FROM history h JOIN artifact a"
        " ON a.id = h.artifact WHERE a.path=? AND h.digest=?"
        " AND (h.content IS NOT NULL OR h.object IS NOT NULL OR h.size = 0)"
        " ORDER BY h.generation = ? DESC LIMIT 1",
        (key, seen.digest, seen.generation),
    )
    if not rows:
        return Content(None, lost=True)
    artifact, generation, size = rows[0]
    if size > most:
        return Content(None, size)
    try:
        content = content_of(parts, key, artifact, generation)
    except CoherenceError:
        return Content(None, size, lost=True)  # pruned meanwhile, or its object is gone
    return Content(content if isinstance(content, bytes) else b"".join(content), size)


def generation_of(parts: VolumeParts, key: ArtifactKey, generation: int) -> SeenRow | None:
    """What generation *generation* of *key* is, if the records still say."""
    row = parts.sidecar.database.read_one(
        "SELECT h.digest, a.epoch FROM history h JOIN artifact a ON a.id = h.artifact"
        " WHERE a.path=? AND h.generation=?",
        (key, generation),
    )
    return None if row is None else SeenRow(generation, Digest(row[0]), row[1])


def current_now(parts: VolumeParts, key: ArtifactKey) -> tuple[SeenRow, bytes | None]:
    """The current generation by the records; of a file without a row, by looking at it.

    Takes no gate and settles nothing: it describes, and decides nothing.
    """
    row = parts.sidecar.artifact(key)
    if row is not None:
        return SeenRow(row.generation, row.digest, row.epoch), None
    try:
        found = look(parts.root.descriptor, key)
    except WriterPresent:
        return SeenRow(0, Digest(b"?"), 0), None
    try:
        return SeenRow(0, found.digest, 0), found.data
    finally:
        found.close()


def passed_since(parts: VolumeParts, key: ArtifactKey, base: int | None, head: int) -> Since:
    """What happened to *key* after *base*, up to *head*; its last commits without a base."""
    after = max(head - _SHOWN_EACH_END, 0) if base is None else base
    total, present = _rows(parts, "count(*), count(nullif(h.digest, x''))", key, after, head, "")[0]
    columns = "h.generation, h.session, h.kind, h.at"
    if total <= 2 * _SHOWN_EACH_END:
        found = _rows(parts, columns, key, after, head, " ORDER BY h.generation")
    else:
        bound = f" LIMIT {_SHOWN_EACH_END}"
        found = [
            *_rows(parts, columns, key, after, head, f" ORDER BY h.generation{bound}"),
            *_rows(parts, columns, key, after, head, f" ORDER BY h.generation DESC{bound}")[::-1],
        ]
    # Those that are pruned are among what is left out.
    gone = 0 if base is None else max(head - base, total) - len(found)
    deleted = True if present < total else None if total < head - after else False
    return Since([Passed(*row) for row in found], gone, deleted)


def _rows(
    parts: VolumeParts, what: str, key: ArtifactKey, after: int, head: int, order: str
) -> Sequence[Row]:
    return parts.sidecar.database.read(
        f"SELECT {what} FROM history h JOIN artifact a ON a.id = h.artifact"
        f" WHERE a.path=? AND h.generation > ? AND h.generation <= ?{order}",
        (key, after, head),
    )
