"""The rows of the sidecar as frozen values, and their checksums.

Pure: no SQL and no disk. One class per table, one field per column that the
protocol uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from coherent_volume.digest import row_checksum
from coherent_volume.model import ABSENT_DIGEST, ArtifactKey, Digest

__all__ = [
    "OUTSIDE",
    "ArtifactRow",
    "EventRow",
    "FeedRow",
    "HistoryRow",
    "InstallRow",
    "LeaseRow",
    "Previous",
    "Publication",
    "SeenRow",
    "Staged",
    "ViewRow",
    "artifact_checksum",
]

OUTSIDE = "outside"
"""The session name that foreign edits carry in the history."""


class Staged(NamedTuple):
    """The inode that an install makes visible."""

    inode: int
    mtime_ns: int


class Previous(NamedTuple):
    """The inode that an install displaces, as it was under the gate."""

    inode: int
    mtime_ns: int
    ctime_ns: int
    size: int


class ArtifactRow(NamedTuple):
    """The current generation of one artifact."""

    id: int
    key: ArtifactKey
    generation: int
    digest: Digest
    size: int
    epoch: int
    boot: str
    leased: bool = False
    """Whether a lease is recorded, live or not; known only where it is asked for."""

    @property
    def exists(self) -> bool:
        """Whether the current generation is a file, and not its deletion."""
        return self.digest != ABSENT_DIGEST


class Sweep(NamedTuple):
    """A search for what is old: the time it was taken to be, and the machine's own."""

    told_ns: int
    boot: str
    machine_ns: int


class InstallRow(NamedTuple):
    """One install that is not yet known to be complete and cleaned up."""

    artifact: int
    generation: int
    stage: str
    staged: Staged | None
    previous: Previous | None
    previous_digest: Digest
    boot: str
    started_ns: int


class HistoryRow(NamedTuple):
    """One generation, without its content."""

    seq: int
    key: ArtifactKey
    generation: int
    base: int
    kind: str
    session: str
    at: int
    digest: Digest
    size: int
    companions: int
    members: int
    saw: int | None
    object: str | None


class EventRow(NamedTuple):
    """What happened and is no generation; its number is given when it is written."""

    kind: str
    session: str
    key: ArtifactKey
    generation: int
    detail: str = ""


class FeedRow(NamedTuple):
    """One row of the feed: a generation, or an event with base, size and digest empty."""

    seq: int
    at: int
    kind: str
    session: str
    key: ArtifactKey
    generation: int
    base: int
    size: int
    digest: Digest
    detail: str


class SeenRow(NamedTuple):
    """What a session last saw of one artifact."""

    generation: int
    digest: Digest
    epoch: int


class ViewRow(NamedTuple):
    """A view to be written down; the content is for an artifact that has no row."""

    key: ArtifactKey
    seen: SeenRow
    content: bytes | None
    size: int


class LeaseRow(NamedTuple):
    """The lease of one artifact."""

    artifact: int
    session: str
    hold: str
    """Name below ``leases/`` of a file that is locked while the holder lives;
    empty when no process holds the lease, so that only its time limits it."""
    epoch: int
    since: int
    until_ns: int
    boot: str
    until: int


@dataclass(slots=True)
class Publication:
    """One generation about to be published.

    ``row`` is the artifact's row as read under the same gate (None: none yet).
    ``content`` or ``object`` carries the bytes, neither for a deletion.
    ``baseline`` is generation 0 as (digest, size, content, object), given when
    it is a file whose content is not in the history yet. ``install`` is None
    when the bytes are visible already, as in an adopted foreign edit.
    """

    key: ArtifactKey
    row: ArtifactRow | None
    generation: int
    kind: str
    session: str
    digest: Digest
    size: int
    content: bytes | None = None
    object: str | None = None
    baseline: tuple[Digest, int, bytes | None, str | None] | None = None
    install: InstallRow | None = None
    settles: InstallRow | None = None
    """An earlier install, of the same stage, that this one takes the place of."""
    observer: str | None = None
    """A named session whose observation this generation becomes."""
    saw: int | None = None
    """The generation that the author of a merge had seen."""


def artifact_checksum(
    key: bytes, generation: int, digest: bytes, size: int, epoch: int, boot: str
) -> int:
    """The checksum column of an artifact row."""
    fields = (len(key), key, generation, len(digest), digest, size, epoch, boot.encode())
    return row_checksum(b"%d %b %d %d %b %d %d %b" % fields)
