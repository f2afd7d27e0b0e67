"""The façade's methods that look back: the generation store as people ask it.

Short methods over the modules below, no rule of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from coherent_volume.model import Commit
from coherent_volume.parts import VolumeParts
from coherent_volume.paths import PathArgument
from coherent_volume.volume_base import OpenVolume

if TYPE_CHECKING:
    from coherent_volume.answers import BlamedLine, LogEntry, Restoration

__all__ = ["HistoryMethods"]

T = TypeVar("T")


class HistoryMethods(OpenVolume):
    """What was committed, by whom, and how to bring it back."""

    def log(self, path: PathArgument | None = None, limit: int | None = None) -> list[LogEntry]:
        """The commits of *path*, or of all artifacts, newest first."""
        from coherent_volume import overview

        if path is None:
            return overview.log(self._open_parts(), None, limit)
        return self._on(path, lambda parts, key: overview.log(parts, key, limit))

    def history(self, path: PathArgument) -> list[LogEntry]:
        """Every kept generation of *path*, newest first."""
        return self.log(path)

    def read_at(self, path: PathArgument, generation: int) -> bytes:
        """The content of a kept generation; this session does not count as having read *path*.

        Raises GenerationNotKeptError, which says which remain.
        """
        from coherent_volume import past

        return self._on(path, lambda parts, key: past.read_at(parts, key, generation))

    def read_at_to(self, path: PathArgument, generation: int, sink: BinaryIO) -> None:
        """As ``read_at``, written to *sink* in chunks."""
        from coherent_volume import past

        self._on(path, lambda parts, key: past.read_at_to(parts, key, generation, sink))

    def diff(self, path: PathArgument, a: int | None = None, b: int | None = None) -> str:
        """A unified diff from generation *a* (the one before *b*) to *b* (the current one)."""
        from coherent_volume import past

        return self._on(path, lambda parts, key: past.diff(parts, key, a, b))

    def blame(self, path: PathArgument) -> list[BlamedLine]:
        """Each line with the generation, session and time that brought it in."""
        from coherent_volume import blaming

        return self._on(path, blaming.blame)

    def restore(self, path: PathArgument, generation: int) -> Commit:
        """Make the content of a kept generation the next one; a new commit, never a rewind.

        Raises GenerationNotKeptError; ForeignEditError if an outside edit came to light.
        """
        from coherent_volume import restoring

        return self._commit(path, lambda parts, key: restoring.restore(parts, key, generation))

    def undo(self) -> list[Commit]:
        """Take back this session's last commit or transaction; a second time, redo it.

        Raises ConflictError when somebody has built on it.
        """
        from coherent_volume import restoring

        return self._nudged(restoring.undo)

    def restore_since(
        self,
        when: datetime | float,
        by: str,
        dry_run: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Restoration:
        """Take back all that session *by* ("outside": other programs) made since *when*.

        In one transaction; artifacts on which others have built are left alone and
        reported. *when* is an aware datetime, or seconds since 1970.
        """
        from coherent_volume import restoring

        since = restoring.moment_of(when)
        return self._nudged(
            lambda parts: restoring.restore_since(
                parts, since, by, dry_run=dry_run, progress=progress
            )
        )

    undo_since = restore_since

    def _nudged(self, act: Callable[[VolumeParts], T]) -> T:
        try:
            return act(self._open_parts())
        finally:
            self._maintenance.nudge()
