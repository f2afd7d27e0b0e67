"""The façade's methods that look back: the generation store as people ask it.

Short methods over the modules below, no rule of their own.
"""

from __future__ import annotations

from coherent_volume import overview
from coherent_volume.model import LogEntry
from coherent_volume.paths import PathArgument
from coherent_volume.volume_base import OpenVolume

__all__ = ["HistoryMethods"]


class HistoryMethods(OpenVolume):
    """What was committed, by whom, and how to bring it back."""

    def log(self, path: PathArgument | None = None, limit: int | None = None) -> list[LogEntry]:
        """The commits of *path*, or of all artifacts, newest first."""
        if path is None:
            return overview.log(self._open_parts(), None, limit)
        return self._on(path, lambda parts, key: overview.log(parts, key, limit))
