"""Claims: what a save through the mount says of the artifact before it.

Owns the choice of the base: what the session saw; for what it never read, the
artifact as it stood when the session started. Commits nothing.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from coherent_volume.files import RACY_NS
from coherent_volume.judgement import Expectation
from coherent_volume.model import ArtifactKey
from coherent_volume.parts import VolumeParts, now_ns
from coherent_volume.reading import read, reading_open
from coherent_volume.records import OUTSIDE, SeenRow
from fuse_mount.credit import Credit

__all__ = ["OVERWRITE", "Claim", "Claims"]


class Claim(NamedTuple):
    """What a save rests on.

    ``by_content`` is what the saver read just now, when that is newer than the
    base. A stale base is no refusal then, as long as this is the head: the saved
    text decides. It must be the head itself that was read: two programs that
    both turn 5 into 6 have the same text, and one increment would be lost.
    """

    base: SeenRow | None
    expectation: Expectation = Expectation.SEEN
    by_content: SeenRow | None = None


_STEP_NS = 20_000_000

OVERWRITE = Claim(None, Expectation.ANYTHING)


class Claims:
    """The claims of one session, from the moment it started."""

    def __init__(self, parts: VolumeParts, credit: Credit) -> None:
        self._parts = parts
        self._credit = credit
        newest = parts.sidecar.history(None, 1)
        self._start_seq = newest[0].seq if newest else 0
        # Files have the time of the last tick: an edit right after the start may look older.
        self._start_ns = time.time_ns() - RACY_NS
        self._ahead = _ahead_ns()
        self._was_set = False
        # When this session itself last changed a file's mode or times: that is
        # no edit, but it moves the file's own record of a change.
        self._own_changes: dict[ArtifactKey, int] = {}

    def claim(self, key: ArtifactKey, process: int) -> Claim:
        """What a save of *key* by *process* rests on."""
        standing = self._credit.standing(key, process)
        if standing.base is not None:
            return Claim(standing.base, by_content=standing.reflex)
        blind = self._parts.rules.blind(key)
        if blind == "allow":
            return OVERWRITE
        base = self._at_start(key) if blind == "since-start" else None
        if base is None or standing.reflex is None:
            return Claim(base)
        if standing.reflex.digest == base.digest:
            return Claim(base)
        return Claim(base, by_content=standing.reflex)

    def absence(self, key: ArtifactKey) -> Claim:
        """What a save rests on whose author found no file of this name."""
        reading = read(self._parts, key)
        return Claim(None if reading.exists else reading.seen)

    def head(self, key: ArtifactKey) -> Claim:
        """A claim of whatever is there at this moment."""
        return Claim(read(self._parts, key).seen)

    def _is_older(self, key: ArtifactKey, ctime_ns: int) -> bool:
        """Whether a file changed last then was not changed by others since the start."""
        if self._own_changes.get(key) == ctime_ns:
            return True
        self.watch_clock()
        return ctime_ns <= self._start_ns and not self._was_set

    def watch_clock(self) -> None:
        """Look whether somebody has set the clock: then no file's time says what came first.

        Once it was set it counts as set: it may have been set back and forth again.
        """
        least, most = _ahead_ns()
        if least > self._ahead[1] + _STEP_NS or most < self._ahead[0] - _STEP_NS:
            self._was_set = True

    def note_change(self, key: ArtifactKey, before_ns: int, after_ns: int) -> None:
        """The session changed mode, owner or times of the file of *key*."""
        if self._is_older(key, before_ns):
            self._own_changes[key] = after_ns

    def _at_start(self, key: ArtifactKey) -> SeenRow | None:
        """What the artifact was when the session started; None if that is not known."""
        with reading_open(self._parts, key) as (reading, look):
            unchanged = not reading.exists or self._is_older(key, look.stat.st_ctime_ns)
        row = self._parts.sidecar.artifact(key)
        if row is None:
            # Nobody committed it. A file that is younger than the session was
            # made or edited by somebody whom the session has not heard of.
            return reading.seen if unchanged else None
        record = self._parts.sidecar.generation(row.id, row.generation)
        if record is not None and record.seq <= self._start_seq:
            return reading.seen
        if record is not None and record.session == OUTSIDE and unchanged and reading.exists:
            return reading.seen  # adopted since, but edited before the start
        known = [
            each
            for each in self._parts.sidecar.history(key, None)
            if each.seq <= self._start_seq or each.generation == 0
        ]
        if not known:
            return None
        return SeenRow(known[0].generation, known[0].digest, row.epoch)


def _ahead_ns() -> tuple[int, int]:
    """How far the clock that can be set is ahead of the one that cannot: least, most.

    Two bounds, because on a busy machine much time may pass between two looks.
    """
    before = now_ns()
    shown_ns = time.time_ns()
    return shown_ns - now_ns(), shown_ns - before
