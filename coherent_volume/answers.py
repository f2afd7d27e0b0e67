"""What the volume answers to those who look around or back; frozen, without behaviour.

The values of status, log, blame, feed, notes, metrics, check and restore. They
stand apart from the model because making a class costs a millisecond, and who
reads and writes needs none of these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from coherent_volume.model import Commit, Durability, SessionInfo

__all__ = [
    "AuditFinding",
    "AuditReport",
    "BlamedLine",
    "Changes",
    "CheckFinding",
    "CheckReport",
    "FeedEntry",
    "LeaseStatus",
    "LeftAlone",
    "LogEntry",
    "Metric",
    "Note",
    "RefusedContent",
    "Restoration",
    "RestoreStep",
    "SessionStatus",
    "VolumeStatus",
]


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


@dataclass(frozen=True, slots=True)
class AuditFinding:
    """One thing in a volume that breaks an invariant; ``path`` is empty for the whole volume."""

    invariant: str
    path: str
    message: str


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The outcome of an audit; ``ok`` when nothing breaks an invariant."""

    root: str
    artifacts: int
    generations: int
    findings: tuple[AuditFinding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings
