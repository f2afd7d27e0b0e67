"""The façade's methods that look around: the state of the whole volume.

Short methods over the modules below, no rule of their own.
"""

from __future__ import annotations

from collections.abc import Callable

from coherent_volume import checkup, overview
from coherent_volume.model import CheckReport, VolumeStatus
from coherent_volume.volume_base import OpenVolume

__all__ = ["FeedMethods"]


class FeedMethods(OpenVolume):
    """What goes on in the volume, and whether it is sound."""

    def status(self) -> VolumeStatus:
        """A still picture: artifacts, sessions, what is unsettled or refused."""
        return overview.status(self._open_parts())

    def check(
        self, repair: bool = False, progress: Callable[[int, int], None] | None = None
    ) -> CheckReport:
        """Compare records, history and files; *progress* is told (done, in all)."""
        return checkup.check(self._open_parts(), repair=repair, progress=progress)
