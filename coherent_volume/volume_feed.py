"""The façade's methods that look around: the whole volume, and what goes on in it.

Short methods over the modules below, no rule of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from coherent_volume.volume_base import OpenVolume

if TYPE_CHECKING:
    from coherent_volume.answers import (
        AuditReport,
        Changes,
        CheckReport,
        LeaseStatus,
        Metric,
        Note,
        VolumeStatus,
    )
    from coherent_volume.savings import Savings
    from coherent_volume.watching import Watch

__all__ = ["FeedMethods"]


class FeedMethods(OpenVolume):
    """What goes on in the volume, and whether it is sound."""

    def changes(self, since: str | None = None, limit: int | None = None) -> Changes:
        """What happened after the token *since*, oldest first; None: only a token of now.

        Commits, foreign edits, leases and refusals, in one order. The cost depends
        on what is new. Raises UsageError for what is no token.
        """
        from coherent_volume import feed

        return feed.changes(self._open_parts(), since, limit)

    def recent(self, count: int = 100) -> Changes:
        """The newest *count* rows of the feed, oldest first, and a token of now."""
        from coherent_volume import feed

        return feed.recent(self._open_parts(), count)

    def watch(
        self,
        paths: str | Iterable[str] | None = None,
        since: str | None = None,
        timeout: float | None = None,
    ) -> Watch:
        """Feed entries as they come: an iterator that blocks, for *timeout* seconds in all.

        *paths* are paths or globs below the root; *since* a token (default: now).
        While it is open, outside edits are adopted promptly. Close it when done.
        """
        from coherent_volume.watching import Watch, hub_of

        parts = self._open_parts()
        return Watch(hub_of(parts), parts, paths, since, timeout, owner=self)

    def notes(self, *, remember: bool = True) -> list[Note]:
        """What this session read and others changed since, told once for each head.

        A note renews no view: read again before you write. Without *remember*
        the notes stay untold until ``told`` is called with them.
        """
        from coherent_volume import notes

        found = notes.notes(self._open_parts())
        if remember:
            notes.told(self._parts, found)
        return found

    def told(self, given: Sequence[Note]) -> None:
        """Remember that these notes have reached the session."""
        from coherent_volume import notes

        notes.told(self._open_parts(), given)

    def leases(self) -> tuple[LeaseStatus, ...]:
        """The leases that exclude others now, by path."""
        from coherent_volume import overview

        return overview.live_leases(self._open_parts())

    def metrics(self) -> tuple[Metric, ...]:
        """The counters of all sessions; those of this process up to now."""
        from coherent_volume import metrics

        return metrics.metrics(self._open_parts())

    def savings(self) -> Savings:
        """What the sessions were spared so far: against demand reading, against broadcast."""
        from coherent_volume import savings

        return savings.savings(self._open_parts())

    def status(self) -> VolumeStatus:
        """A still picture: artifacts, sessions, what is unsettled or refused."""
        from coherent_volume import overview

        return overview.status(self._open_parts())

    def check(
        self, repair: bool = False, progress: Callable[[int, int], None] | None = None
    ) -> CheckReport:
        """Compare records, history and files; *progress* is told (done, in all)."""
        from coherent_volume import checkup

        return checkup.check(self._open_parts(), repair=repair, progress=progress)

    def audit(self, progress: Callable[[int, int], None] | None = None) -> AuditReport:
        """Hold the volume's own log against the invariants; changes and repairs nothing.

        Each finding names the invariant that it breaks. Costs a look at all kept
        content. Raises DamagedError where the records cannot be read at all.
        """
        from coherent_volume import audit

        return audit.audit(self._open_parts(), progress)
