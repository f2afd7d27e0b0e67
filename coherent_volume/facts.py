"""Facts: everything the records say, at one moment; SELECT statements only.

Owns the statements of the audit. Believes nothing: rows come as they are, so
that the audit can find what no other module would let pass. Changes nothing
and needs no gate.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from coherent_volume.database import Database, Reader, Row
from coherent_volume.model import ArtifactKey

__all__ = [
    "Facts",
    "Generation",
    "Remembered",
    "artifacts",
    "content",
    "facts_of",
    "moment",
    "numbers",
    "remembered",
    "strays",
]

_GENERATIONS = (
    "SELECT seq, generation, base, kind, session, digest, size, companions, members, object,"
    " content IS NOT NULL FROM history"
)


class Generation(NamedTuple):
    """One row of the history, without its content."""

    seq: int
    generation: int
    base: int
    kind: str
    session: str
    digest: bytes
    size: int
    companions: int
    members: int
    object: str | None
    has_content: bool


class Remembered(NamedTuple):
    """What anybody was ever told, by artifact; numbers and epochs in it only grow."""

    observations: Mapping[int, list[tuple[str, int, bytes, int]]]
    """(session, generation, digest, epoch)."""
    told: Mapping[int, list[tuple[str, int]]]
    """(session, generation)."""
    events: Mapping[bytes, list[tuple[str, int]]]
    """By path: (kind, generation)."""


class Facts(NamedTuple):
    """What the records say of one artifact."""

    id: int
    key: ArtifactKey
    generation: int
    digest: bytes
    size: int
    epoch: int
    boot: str
    checksum: int
    generations: list[Generation]
    installs: list[Row]
    leases: list[tuple[str, int]]
    """(session, epoch)."""


@contextlib.contextmanager
def moment(database: Database) -> Iterator[Reader]:
    """During the block all facts are of one moment."""
    with database.snapshot() as read:
        yield read


def artifacts(read: Reader) -> list[ArtifactKey]:
    """Every artifact that has a row, in the order of the paths."""
    return [ArtifactKey(row[0]) for row in read("SELECT path FROM artifact ORDER BY path", ())]


def remembered(read: Reader) -> Remembered:
    """What all sessions and events remember; in one pass, for their keys begin otherwise."""
    observations: defaultdict[int, list[tuple[str, int, bytes, int]]] = defaultdict(list)
    for row in read("SELECT artifact, session, generation, digest, epoch FROM observation", ()):
        observations[row[0]].append((row[1], row[2], row[3], row[4]))
    told: defaultdict[int, list[tuple[str, int]]] = defaultdict(list)
    for row in read("SELECT artifact, session, generation FROM told", ()):
        told[row[0]].append((row[1], row[2]))
    events: defaultdict[bytes, list[tuple[str, int]]] = defaultdict(list)
    for row in read("SELECT path, kind, generation FROM event ORDER BY seq", ()):
        events[row[0]].append((row[1], row[2]))
    return Remembered(observations, told, events)


def facts_of(read: Reader, key: ArtifactKey) -> Facts | None:
    """What is recorded of *key*; None without a row."""
    rows = read(
        "SELECT id, generation, digest, size, epoch, boot, checksum FROM artifact WHERE path=?",
        (key,),
    )
    if not rows:
        return None
    number, *values = rows[0]

    def of(sql: str) -> list[Any]:
        return list(read(f"{sql} WHERE artifact=?", (number,)))

    generations = [Generation(*row) for row in of(_GENERATIONS)]
    return Facts._make(
        [
            number,
            key,
            *values,
            sorted(generations, key=lambda each: each.generation),
            of("SELECT * FROM install"),
            of("SELECT session, epoch FROM lease"),
        ]
    )


def content(read: Reader, seq: int) -> bytes | None:
    """The content in the row of the history with this number."""
    return next((row[0] for row in read("SELECT content FROM history WHERE seq=?", (seq,))), None)


def numbers(read: Reader) -> list[tuple[int, int, int, str]]:
    """(number, number of its commit, members of that, kind) of the whole feed, in its order.

    An event is a commit of its own with no members.
    """
    rows = read(
        "SELECT seq, max(companions, seq * (companions = 0)), members, kind FROM history"
        " UNION ALL SELECT seq, seq, 0, kind FROM event ORDER BY 1",
        (),
    )
    return [(row[0], row[1], row[2], row[3]) for row in rows]


def strays(read: Reader) -> list[tuple[str, int]]:
    """(table, rows) of what belongs to no artifact at all."""
    found = []
    for table in ("history", "install", "observation", "lease", "told"):
        count = read(
            f"SELECT count(*) FROM {table} WHERE artifact NOT IN (SELECT id FROM artifact)", ()
        )[0][0]
        if count:
            found.append((table, int(count)))
    return found
