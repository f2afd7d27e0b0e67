"""Credit: which reads count as having seen an artifact, and what a save rests on.

Owns the reads of the last moments. An open for reading credits the session with
the generation that it pinned, but not at once: ``sed -i``, ``patch`` and the
save tools of agents read a file milliseconds before they write it. Such a
*reflex* read (same process, within the window before its save) renews nothing by
itself. A read that has become older than the window is recorded as the
session's view. A refusal voids every younger read, or else the read that a
refused save made would let the next blind attempt through.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from typing import NamedTuple

from coherent_volume.errors import CoherenceError, UnavailableError
from coherent_volume.gating import remember_all
from coherent_volume.locks import GATE_WAIT_S
from coherent_volume.model import ArtifactKey
from coherent_volume.parts import VolumeParts, now_ns
from coherent_volume.reading import Reading, read
from coherent_volume.records import SeenRow, ViewRow
from fuse_mount.processes import start_of

__all__ = ["Credit", "Standing"]

_log = logging.getLogger("coherent_volume")
_OPENS_MAX = 4096
"""Opens that are remembered before those of processes that have ended are forgotten."""
_AT_ONCE = 64
"""Views written down under one hold of the gate: some milliseconds."""


class _Read(NamedTuple):
    seen: SeenRow
    at: float
    process: int
    reading: Reading | None


class _Opened(NamedTuple):
    """What one process opened last, and what it knew before that was within the window."""

    before: SeenRow | None
    seen: SeenRow
    at: float


class _Process(NamedTuple):
    """One process, under its number, which may be another's after it."""

    since: int
    """When its first open was noted: a process that began later is another one."""
    opened: dict[ArtifactKey, _Opened]


class Standing(NamedTuple):
    """What a process's save of an artifact rests on.

    ``base`` is what the session saw; None: nothing. ``reflex`` is what this
    very process read within the window, if that is something else.
    """

    base: SeenRow | None
    reflex: SeenRow | None


class Credit:
    """The reads of one session through one mount."""

    def __init__(self, parts: VolumeParts, window_s: float) -> None:
        self._parts = parts
        self._window = window_s
        self._lock = threading.Lock()
        self._young: dict[ArtifactKey, list[_Read]] = {}
        self._unwritten: deque[tuple[ArtifactKey, _Read]] = deque()
        # What each process itself opened last: two processes of one session
        # must not lose each other's work either.
        self._last: dict[int, _Process] = {}
        self._opens, self._opens_max = 0, _OPENS_MAX

    def note_read(
        self, key: ArtifactKey, seen: SeenRow, process: int, reading: Reading | None
    ) -> None:
        """*process* was given *seen* to read."""
        with self._lock:
            self._opened(key, process, seen)
            if self._parts.session.seen_here.get(key) == seen:
                return
            reads = self._young.setdefault(key, [])
            reads.append(_Read(seen, time.monotonic(), process, reading))

    def has(self, key: ArtifactKey, seen: SeenRow) -> bool:
        """Whether *seen* is the session's view already, so that reading it changes nothing."""
        return self._parts.session.seen_here.get(key) == seen

    def is_behind(self, key: ArtifactKey, process: int, base: SeenRow | None) -> bool:
        """Whether what *process* itself opened last is older than *base*."""
        with self._lock:
            last = self._opened_last(key, process)
        return (
            base is not None and last is not None and self._known(last).generation < base.generation
        )

    def note_opened(self, key: ArtifactKey, process: int, seen: SeenRow | None) -> None:
        """*process* was shown content that the session has not committed, resting on *seen*."""
        if seen is not None:
            with self._lock:
                self._opened(key, process, seen)

    def note_commit(self, key: ArtifactKey, seen: SeenRow, process: int) -> None:
        """The session's own commit; what was read before it is history."""
        with self._lock:
            self._young.pop(key, None)
            self._opened(key, process, seen, made=True)

    def note_appended(self, key: ArtifactKey, base: int, seen: SeenRow, process: int) -> None:
        """*process* appended to generation *base*; if that is what it knew, it knows the result."""
        with self._lock:
            last = self._opened_last(key, process)
            if last is not None and last.seen.generation == base:
                self._opened(key, process, seen, made=True)

    def _opened_last(self, key: ArtifactKey, process: int) -> _Opened | None:
        found = self._opens_of(process)
        return None if found is None else found.opened.get(key)

    def _opens_of(self, process: int) -> _Process | None:
        """What *process* opened; under the lock."""
        found = self._last.get(process)
        if found is not None and start_of(process) > found.since:
            del self._last[process]  # of a program that had the number before
            return None
        return found

    def _opened(self, key: ArtifactKey, process: int, seen: SeenRow, *, made: bool = False) -> None:
        last = None if made else self._opened_last(key, process)
        before = None
        if last is not None and last.seen != seen:
            before = self._known(last)
        elif last is not None and self._is_young(last):
            return  # it is as young as it was
        found = self._opens_of(process)
        if found is None:
            found = self._last[process] = _Process(now_ns(), {})
        found.opened[key] = _Opened(before, seen, time.monotonic())
        self._opens += 1
        if self._opens > self._opens_max:
            # Nothing of a process that lives: it may save what it read hours ago.
            self._last = {
                each: found
                for each, found in self._last.items()
                if each == process or os.path.exists(f"/proc/{each}")
            }
            self._opens = sum(len(found.opened) for found in self._last.values())
            self._opens_max = max(_OPENS_MAX, 2 * self._opens)

    def _is_young(self, last: _Opened) -> bool:
        return time.monotonic() - last.at < self._window

    def _known(self, last: _Opened) -> SeenRow:
        """What its text rests on: what it opened just now renews nothing."""
        return last.before if last.before is not None and self._is_young(last) else last.seen

    def void(self, key: ArtifactKey) -> None:
        """A save of *key* was refused: reads younger than the window count for nothing."""
        with self._lock:
            self._young.pop(key, None)
            for found in self._last.values():
                last = found.opened.get(key)
                if last is not None and last.before is not None and self._is_young(last):
                    found.opened[key] = _Opened(None, last.before, last.at)

    def standing(self, key: ArtifactKey, process: int) -> Standing:
        """What a save of *key* by *process* rests on, at this moment."""
        self.ripen()
        base = self._recorded(key)
        with self._lock:
            young = list(self._young.get(key, ()))
            last = self._opened_last(key, process)
        reflex = None
        for each in young:
            if each.process == process:
                reflex = each.seen
            elif base is None or each.seen.generation >= base.generation:
                base = each.seen
        if base is not None and last is not None:
            known = self._known(last)
            if known.generation < base.generation:
                base, reflex = known, reflex or last.seen
        if reflex is not None and base is not None and reflex.digest == base.digest:
            reflex = None
        return Standing(base, reflex)

    def _recorded(self, key: ArtifactKey) -> SeenRow | None:
        here = self._parts.session.seen_here.get(key)
        kept = self._parts.sidecar.observation(self._parts.session.name, key)
        if here is None or kept is None:
            return here or kept
        # A command of the same session may have read on beside the mount.
        return max(here, kept, key=_age)

    def ripen(self, *, everything: bool = False) -> None:
        """Take the reads that are older than the window as the session's views."""
        if not self._young:
            return
        latest = time.monotonic() - self._window
        with self._lock:
            for key in list(self._young):
                old = [each for each in self._young[key] if everything or each.at <= latest]
                if not old:
                    continue
                left = self._young[key][len(old) :]
                if left:
                    self._young[key] = left
                else:
                    del self._young[key]
                here = self._parts.session.seen_here.get(key)
                if here is not None and _age(here) > _age(old[-1].seen):
                    continue  # a commit of these very moments has seen more
                self._parts.session.seen_here[key] = old[-1].seen
                self._unwritten.append((key, old[-1]))

    def write_down(self) -> None:
        """Let other processes of the session know what it has seen."""
        while self._unwritten:
            count = min(len(self._unwritten), _AT_ONCE)
            batch = [self._unwritten.popleft() for _ in range(count)]
            error = self._write(batch)
            if error is not None and _may_pass(error):
                # Nothing is lost by the delay: here they count all the same.
                self._unwritten.extendleft(reversed(batch))
                return
            if error is not None and count > 1:
                for each in batch:  # one of them stands in the way of all
                    self._write([each])

    def _write(self, batch: list[tuple[ArtifactKey, _Read]]) -> Exception | None:
        """Write views down together; why none of them was, if so."""
        try:
            views = [view for key, each in batch if (view := self._view(key, each))]
            with self._parts.gate.held(GATE_WAIT_S):
                self._parts.sidecar.database.verify()
                remember_all(self._parts, [view for view in views if self._is_news(view)])
        except (CoherenceError, OSError) as error:
            _log.info("%d views could not be written down: %s", len(batch), error)
            return error
        return None

    def _is_news(self, view: ViewRow) -> bool:
        """Under the gate: whether no process of the session has seen anything later."""
        if self._parts.session.seen_here.get(view.key) != view.seen:
            return False
        kept = self._parts.sidecar.observation(self._parts.session.name, view.key)
        return kept is None or _age(kept) <= _age(view.seen)

    def _view(self, key: ArtifactKey, each: _Read) -> ViewRow | None:
        """What the records keep of a read; None when its content is gone and nowhere kept."""
        reading = each.reading
        if reading is None and self._parts.sidecar.artifact(key) is None:
            reading = read(self._parts, key)
            if reading.seen != each.seen:
                return None
        if reading is None:
            return ViewRow(key, each.seen, None, 0)
        return ViewRow(key, each.seen, reading.data, reading.size)


def _may_pass(error: Exception) -> bool:
    """Whether the same may succeed in a moment: the gate is busy, the disk is full."""
    return isinstance(error, UnavailableError | OSError)


def _age(seen: SeenRow) -> tuple[int, int]:
    return seen.generation, seen.epoch
