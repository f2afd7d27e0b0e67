"""The ground that a commit stands on: flushed, before the commit can be acknowledged.

Owns one rule of power mode. A file that somebody else put below a name, or took
away, may be in the directory of memory only. A power loss would bring back what
was there before, of which no record tells: it would pass for an outside edit on
top of the commit, and hide it. Our own installs are all recorded and need no
flush. So the directory is flushed before a commit displaces what is not ours,
and before records of installs are forgotten. Upholds I7.

Known limit: the first commit of a name that was removed from outside a moment
ago is not preceded by a flush; every creation would cost one.
"""

from __future__ import annotations

import contextlib
import os
import time

from coherent_volume.attributes import Witness
from coherent_volume.errors import NotFoundError
from coherent_volume.files import Look
from coherent_volume.model import ArtifactKey
from coherent_volume.parts import VolumeParts
from coherent_volume.records import ArtifactRow

__all__ = ["flush_before_forgetting", "flush_below"]

_WRITTEN_OUT_S = 120
"""What is older the kernel has written out by itself (after 30 s, by default)."""


def flush_below(
    parts: VolumeParts, folder: int, key: ArtifactKey, row: ArtifactRow | None, judged: Look
) -> None:
    """Make durable what a commit will displace from *folder*, unless it is ours. OSError."""
    if not parts.durable:
        return
    if not judged.exists:
        if row is not None:
            os.fsync(folder)
        return
    generation = row.generation if row is not None else 0
    if generation and Witness.read(judged.descriptor, parts.incarnation, key) == generation:
        return
    # By the clock that anybody may set: wrong in either direction it only costs a
    # flush, or trusts the kernel with what a person changed with the clock.
    age = time.time() - max(judged.stat.st_ctime, judged.stat.st_mtime)
    if abs(age) < _WRITTEN_OUT_S:
        os.fsync(folder)


def flush_before_forgetting(parts: VolumeParts, key: ArtifactKey, seen: Look) -> None:
    """Make durable what is visible now: no record will tell it from an edit. OSError."""
    if not parts.durable:
        return
    if seen.exists:
        os.fsync(seen.descriptor)
    # Without its directory there is nothing that a power loss could bring back.
    with contextlib.suppress(NotFoundError), parts.root.parent_of(key) as (folder, _):
        os.fsync(folder)
