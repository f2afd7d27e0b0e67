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
    "BlamedLine",
    "Changes",
    "CheckFinding",
    "CheckReport",
    "Commit",
    "Digest",
    "Durability",
    "FeedEntry",
    "LeaseStatus",
    "LeftAlone",
    "LogEntry",
    "MergedWith",
    "Metric",
    "Note",
    "Observation",
    "RefusedContent",
    "Restoration",
    "RestoreStep",
    "SessionInfo",
    "SessionStatus",
    "State",
    "VolumeStatus",
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
class LogEntry:
    """One commit, foreign edit or adopted baseline. ``at`` is UTC, ISO 8601.

    ``seq`` orders all commits of the volume. ``digest`` is empty for a deletion.
    ``saw`` is the generation that the author of a merge had seen, else None.
    """

    seq: int
    path: str
    generation: int
    base: int
    kind: str
    session: str
    at: str
    size: int
    digest: str
    saw: int | None = None


@dataclass(frozen=True, slots=True)
class BlamedLine:
    """One line of an artifact and the generation that brought it in.

    ``or_before`` says that the line is as old as the oldest generation that is
    kept, so that an earlier one may have brought it in. ``text`` has no newline;
    bytes that are not UTF-8 are lone surrogates.
    """

    number: int
    generation: int
    session: str
    at: str
    or_before: bool
    text: str


@dataclass(frozen=True, slots=True)
class RestoreStep:
    """One artifact that goes back from its ``current`` generation to ``generation``.

    ``deletes`` says that there was no file at that generation.
    """

    path: str
    current: int
    generation: int
    deletes: bool


@dataclass(frozen=True, slots=True)
class LeftAlone:
    """An artifact that a restoration did not touch, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Restoration:
    """What a session's work was undone by: one transaction; none in a dry run."""

    steps: tuple[RestoreStep, ...]
    left: tuple[LeftAlone, ...]
    commits: tuple[Commit, ...]


@dataclass(frozen=True, slots=True)
class FeedEntry:
    """One row of the feed: a generation, or an event that is none.

    ``kind`` is that of the generation (``write``, ``create``, ``delete``,
    ``foreign`` ...) or of the event: ``lease``, ``release``, ``break``,
    ``reclaim`` (``detail`` names the former holder), ``refuse`` (``detail`` is
    the reason), ``foreign`` with generation 0 (an outside change of a file
    without records), ``gap`` (entries were pruned before they were asked for).
    ``token`` is where to go on after this entry.
    """

    seq: int
    at: str
    kind: str
    path: str
    session: str
    generation: int
    base: int
    size: int
    digest: str
    detail: str
    token: str


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened since a token, oldest first, and the ``token`` to go on from.

    ``complete`` is False when entries in between are no longer kept. What is
    left still holds the current generation of every artifact that changed,
    unless the token was one of another sidecar; then there are no entries.
    """

    entries: tuple[FeedEntry, ...]
    token: str
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Note:
    """An artifact that the session read and that changed since.

    ``seen`` and ``current`` are generations, ``by`` the sessions in between,
    oldest first, at most eight. ``diff`` is short and escaped, or says why there is none.
    """

    path: str
    seen: int
    current: int
    kind: str
    by: tuple[str, ...]
    at: str
    diff: str


@dataclass(frozen=True, slots=True)
class LeaseStatus:
    """A live lease. ``held`` says whether a process holds it, or only its time."""

    path: str
    session: str
    since: str
    until: str
    epoch: int
    held: bool


@dataclass(frozen=True, slots=True)
class Metric:
    """One counter of one session; ``reason`` only for refusals."""

    name: str
    session: str
    value: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """Who is reading, and which rule of the ladder said so."""

    name: str
    kind: Literal["process", "named"]
    rule: str


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """A session as others see it. ``last_seen`` is UTC, ISO 8601."""

    name: str
    kind: str
    alive: bool
    pid: int | None
    command: str
    observed: int
    behind: int
    commits: int
    last_seen: str


@dataclass(frozen=True, slots=True)
class RefusedContent:
    """Content of a refused write, kept in ``file`` (a path below the root)."""

    file: str
    bytes: int
    refused_at: str


@dataclass(frozen=True, slots=True)
class VolumeStatus:
    """A still picture of a volume."""

    root: str
    managed: tuple[str, ...]
    durability: Durability
    incarnation: str
    session: SessionInfo
    artifacts: int
    commits: int
    foreign_edits: int
    unsettled: tuple[str, ...]
    sessions: tuple[SessionStatus, ...]
    refused: tuple[RefusedContent, ...]
    sidecar_bytes: int
    object_bytes: int
    leases: tuple[LeaseStatus, ...] = ()
    refusals: int = 0


@dataclass(frozen=True, slots=True)
class CheckFinding:
    """One thing that a check found. ``repaired`` says whether it was mended."""

    severity: Literal["note", "damage"]
    subject: str
    message: str
    repaired: bool = False


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The outcome of a check; ``ok`` when no damage is left."""

    root: str
    artifacts: int
    generations: int
    findings: tuple[CheckFinding, ...]

    @property
    def ok(self) -> bool:
        """Whether no damage is left."""
        return all(f.repaired or f.severity != "damage" for f in self.findings)
