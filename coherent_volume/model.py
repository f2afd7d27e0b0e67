"""The values that the whole package speaks in; frozen, without behaviour.

Owns no rule of the protocol and touches neither disk nor clock. Paths are
shown as ``str`` (decoded with surrogateescape, as Python's own file calls do);
inside the package an artifact is named by its ``ArtifactKey``, the bytes of
its path below the root.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, NewType

__all__ = [
    "ABSENT_DIGEST",
    "ArtifactKey",
    "Commit",
    "Digest",
    "Durability",
    "MergedWith",
    "Observation",
    "SessionInfo",
    "State",
    "moment",
]

ArtifactKey = NewType("ArtifactKey", bytes)
"""Path of an artifact below the root: bytes, '/'-separated, no '.', no '..'."""

Digest = NewType("Digest", bytes)
"""xxh3_128 of an artifact's bytes, 16 bytes. Finds accidents, not malice."""

ABSENT_DIGEST = Digest(b"")
"""The digest of a generation that says "deleted", and of a name never used."""

Durability = Literal["power", "process"]
"""What an acknowledged commit survives: a power loss, or kill -9 of everybody."""

State = Literal["M", "E", "S", "I"]
"""Modified (leased, content staged), Exclusive (leased), Shared, Invalid."""


def moment(seconds: float) -> str:
    """A point in time as UTC, ISO 8601, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True, slots=True)
class Observation:
    """What a session saw: one generation of one artifact, by number and digest.

    ``data`` is None when nothing changed since the ``known`` that was passed.
    Generation 0 is a file that was never committed; it is told apart by its
    digest. ``epoch`` is the ownership epoch at that moment.
    """

    path: str
    generation: int
    digest: str
    data: bytes | None = field(default=None, repr=False)
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class MergedWith:
    """A commit whose edits another one was merged with."""

    generation: int
    session: str


@dataclass(frozen=True, slots=True)
class Commit:
    """An acknowledged commit.

    ``base`` is the generation it succeeds. ``changed`` is False when the
    content was the head's already, so that no generation was made.
    ``installed`` is False when the commit stands but the visible file could
    not be brought up to date yet; the next visitor does it. ``merged`` names
    the commits whose edits were merged with the author's, oldest first; the
    author has not seen them yet, and reads again before the next write.
    """

    path: str
    generation: int
    digest: str
    session: str
    base: int
    changed: bool = True
    installed: bool = True
    epoch: int = 0
    merged: tuple[MergedWith, ...] = ()


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """Who is reading, and which rule of the ladder said so."""

    name: str
    kind: Literal["process", "named"]
    rule: str
