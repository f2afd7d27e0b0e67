"""Watching: a blocking iterator over the feed, and prompt adoption while it lasts.

Owns the waiting and the debouncing. Correct without any hint: the feed is
looked at every second anyway, and an outside edit that nobody hinted at is
adopted by the next reader. A hint only says when to look earlier. Adoption is
what a reader does, no more: the gate is taken only where file and records
disagree, so that the installs of commits cause no traffic on it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, Self

from coherent_volume import feed
from coherent_volume.answers import FeedEntry
from coherent_volume.errors import BusyError, CoherenceError, UsageError, printable
from coherent_volume.globs import NEVER_MANAGED, ManagedGlobs
from coherent_volume.model import ArtifactKey
from coherent_volume.parts import VolumeParts
from coherent_volume.paths import shown
from coherent_volume.reading import read
from coherent_volume.watch import Hints, start
from coherent_volume.weak import members

__all__ = ["Follower", "Hub", "Pace", "Watch", "hub_of"]

_log = logging.getLogger("coherent_volume")

_POLL_S = 1.0
_POLL_WITHOUT_HINTS_S = 0.25
_SETTLE_S = 0.05
_SETTLE_MAX_S = 0.5
_AGAIN_S = 1.0
_TRIES_MAX = 60
_JOIN_S = 2.0
# The log is written before the COMMIT is flushed and visible: after a hint the
# feed is looked at again after these pauses, a quarter of a second in all.
_PAUSES_S = tuple(0.001 * 2**n for n in range(8))
_IN_BURST = 3
# What editors put beside the file and take away again.
_TEMPORARY = (".swp", ".swx", ".swo", ".tmp", ".temp", ".bak", "~", "#", ".part", ".lock")


@dataclass(slots=True)
class _Pending:
    """A path that something happened to: since when, and not before when to look."""

    first: float
    due: float
    tries: int = 0


class Follower(Protocol):
    """Whoever is to be woken when something may have happened."""

    def wake(self) -> None:
        """Look at the feed now; called by any thread."""

    def close(self) -> None:
        """The volume is being closed."""

    def abandon(self) -> None:
        """In a forked child: this belongs to the parent."""


class Pace:
    """When to look at the feed again: soon after a hint, less and less often, else by polling."""

    def __init__(self) -> None:
        self._hinted = threading.Event()
        self._pauses: tuple[float, ...] = ()

    def hint(self) -> None:
        """Something may have happened; called by any thread."""
        self._hinted.set()

    def anew(self) -> None:
        """Forget the pauses that an earlier hint began."""
        self._pauses = ()

    def look_begins(self) -> None:
        """Take the hint before a look, so that one that comes meanwhile is kept."""
        if self._hinted.is_set():
            self._hinted.clear()
            # In a burst of hints not more often than the middle pause says.
            self._pauses = _PAUSES_S[_IN_BURST:] if self._pauses else _PAUSES_S

    def rest(self, poll_s: float, most: float = math.inf) -> None:
        """Wait until the next look is due, but not for more than *most* seconds."""
        pause, self._pauses = (self._pauses[0], self._pauses[1:]) if self._pauses else (poll_s, ())
        if self._pauses:
            # Not ended by hints: a burst of them must not become a burst of looks.
            time.sleep(min(pause, most))
        else:
            self._hinted.wait(min(pause, most))


def hub_of(parts: VolumeParts) -> Hub:
    """The hub of one volume object, made when it is first asked for."""
    # Two threads may both make one here; the loser's is used by its own follower alone.
    hub = parts.hub
    if not isinstance(hub, Hub):
        parts.hub = hub = Hub(parts)
    return hub


class Hub:
    """What all watches of one volume object share: the observer and the adoption."""

    def __init__(self, parts: VolumeParts) -> None:
        self._parts = parts
        # Protects starting and stopping, and the table of pending paths. Reentrant,
        # because the garbage collector may close a forgotten watch at any line.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._watches: weakref.WeakSet[Follower] = weakref.WeakSet()
        self._pending: dict[ArtifactKey, _Pending] = {}
        self._thread: threading.Thread | None = None
        self._hints: Hints | None = None
        self._closed = False
        parts.on_close.append(self.close)
        parts.on_fork.append(self.become_child)

    @property
    def poll_s(self) -> float:
        """How long a watch may go without looking."""
        hints = self._hints
        return _POLL_WITHOUT_HINTS_S if hints is None or hints.polls else _POLL_S

    def join(self, watch: Follower) -> None:
        """Begin to wake *watch*; the first one starts the threads."""
        with self._lock:
            self._watches.add(watch)
            if self._thread is not None:
                return
            self._thread = thread = threading.Thread(
                target=self._adopt_for_ever, name="coherent-adoption", daemon=True
            )
            thread.start()
        parts = self._parts
        hints = start(
            os.fsdecode(parts.root.path),
            parts.directory,
            frozenset(map(os.fsdecode, NEVER_MANAGED)),
            self._wake,
            self._hint,
        )
        with self._lock:
            is_wanted = self._thread is thread
            if is_wanted:
                self._hints = hints
        if hints is not None and not is_wanted:
            hints.stop()  # closed meanwhile

    def leave(self, watch: Follower) -> None:
        """Stop waking *watch*; the last one ends the threads."""
        with self._lock:
            self._watches.discard(watch)
            if self._watches:
                return
        self._stop()

    def close(self) -> None:
        """End every watch: the volume is being closed."""
        self._closed = True
        for watch in members(self._watches):
            watch.close()
        self._stop()

    def _stop(self) -> None:
        with self._lock:
            thread, self._thread = self._thread, None
            hints, self._hints = self._hints, None
            self._pending.clear()
            self._changed.notify_all()
        if hints is not None:
            hints.stop()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_JOIN_S)

    def become_child(self) -> None:
        """After a fork, in the child: threads and watches are the parent's."""
        if self._hints is not None:
            self._hints.abandon()
        for watch in members(self._watches):
            watch.abandon()
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._watches = weakref.WeakSet()
        self._pending = {}
        self._thread = None
        self._hints = None

    # ── hints ────────────────────────────────────────────────────────────────

    def _wake(self) -> None:
        for watch in members(self._watches):
            watch.wake()

    def _hint(self, path: str, is_directory: bool) -> None:
        # An install follows its COMMIT at once: the best moment to look.
        self._wake()
        root = self._parts.root.path
        raw = os.fsencode(path)
        if not raw.startswith(root + b"/"):
            return
        key = ArtifactKey(raw[len(root) + 1 :])
        with contextlib.suppress(CoherenceError):
            keys = self._below(key) if is_directory else [key]
            wanted = [each for each in keys if self._parts.globs.matches(each)]
            now = time.monotonic()
            with self._lock:
                for each in wanted:
                    found = self._pending.setdefault(each, _Pending(now, now))
                    found.due = min(now + _SETTLE_S, found.first + _SETTLE_MAX_S)
                self._changed.notify_all()

    def _below(self, folder: ArtifactKey) -> list[ArtifactKey]:
        """What is in a directory that came, and what the records know of one that went."""
        prefix = folder + b"/"
        known = self._parts.sidecar.keys()
        keys = {key for key in known if key.startswith(prefix)}
        for where, _, names in os.walk(os.path.join(self._parts.root.path, folder)):
            below = where[len(self._parts.root.path) + 1 :]
            keys.update(ArtifactKey(os.path.join(below, name)) for name in names)
        return sorted(keys)

    # ── adoption ─────────────────────────────────────────────────────────────

    def _adopt_for_ever(self) -> None:
        me = threading.current_thread()
        while True:
            with self._lock:
                if self._thread is not me:
                    return
                now = time.monotonic()
                due = [key for key, each in self._pending.items() if each.due <= now]
                taken = [(key, self._pending.pop(key)) for key in due]
                if not taken:
                    nearest = min((each.due for each in self._pending.values()), default=math.inf)
                    self._changed.wait(None if nearest == math.inf else max(0.001, nearest - now))
            for key, pending in taken:
                self._adopt(key, pending)

    def _adopt(self, key: ArtifactKey, pending: _Pending) -> None:
        try:
            self._parts.root.refuse_volumes_inside(key)
            reading = read(self._parts, key)
            if reading.artifact is None and reading.exists and not _is_temporary(key):
                feed.note_outside(self._parts, key, reading.seen.digest)
        except BusyError:
            # Somebody is still writing; its end will be hinted at, if hints work.
            pending.tries += 1
            if pending.tries < _TRIES_MAX:
                pending.first = time.monotonic()
                pending.due = pending.first + _AGAIN_S
                with self._lock:
                    self._pending.setdefault(key, pending)
        except (CoherenceError, OSError) as error:
            # Whoever reads the file is told; a watch has nobody to tell.
            _log.debug("%s was not adopted: %s", printable(shown(key)), error)


def _is_temporary(key: ArtifactKey) -> bool:
    name = shown(key).rpartition("/")[2]
    return name.startswith((".", "#")) or name.endswith(_TEMPORARY) or name.isdecimal()


class Watch(Iterator[FeedEntry]):
    """Feed entries as they come; a blocking iterator, to be closed when done.

    Each entry's ``token`` is where another watch would go on. Where entries were
    pruned before they could be delivered, one of kind ``gap`` says so.
    """

    def __init__(
        self,
        hub: Hub,
        parts: VolumeParts,
        paths: str | Iterable[str] | None,
        since: str | None,
        timeout: float | None,
        owner: object = None,
    ) -> None:
        if timeout is not None and not 0 <= timeout < threading.TIMEOUT_MAX:
            raise UsageError(f"a timeout is a number of seconds from 0, not {timeout}")
        self._owner = owner  # the volume must not be collected under a watch
        self._hub = hub
        self._parts = parts
        self._wanted = _selection(paths)
        self._deadline = math.inf if timeout is None else time.monotonic() + timeout
        self._ready: list[FeedEntry] = []
        self._pace = Pace()
        # Keeps two threads that share a watch from delivering an entry twice.
        self._taking = threading.Lock()
        self._closed = False
        # Before the threads: a token that is none must not start anything.
        told = feed.changes(parts, since, None)
        self.token = told.token
        self._take(told.entries, complete=told.complete)
        hub.join(self)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> FeedEntry:
        with self._taking:
            self._pace.anew()
            while not self._ready:
                if self._closed:
                    raise StopIteration
                self._pace.look_begins()
                self._look()
                left = self._deadline - time.monotonic()
                if self._ready:
                    break
                if left <= 0:
                    self.close()
                    raise StopIteration
                self._pace.rest(self._hub.poll_s, left)
            return self._ready.pop()

    def _look(self) -> None:
        try:
            told = feed.changes(self._parts, self.token, None)
        except CoherenceError:
            if self._closed:
                return  # the volume was closed under us: that ends a watch in peace
            raise
        self.token = told.token
        self._take(told.entries, complete=told.complete)

    def _take(self, entries: tuple[FeedEntry, ...], *, complete: bool) -> None:
        found = [each for each in entries if self._wanted(each.path)]
        feed.await_installs(self._parts, found)
        if not complete:
            found.insert(0, feed.gap(entries[0].token if entries else self.token, time.time()))
        self._ready = [*found[::-1], *self._ready]  # delivered from the end

    def wake(self) -> None:
        """Look at the feed now; called by any thread."""
        self._pace.hint()

    def close(self) -> None:
        """End the iteration, also that of a thread that waits in it."""
        if not self._closed:
            self._closed = True
            self._pace.hint()
            self._hub.leave(self)
            self._owner = None

    def abandon(self) -> None:
        """In a forked child: the watch is the parent's, and ends here."""
        self._closed = True
        self._taking = threading.Lock()
        self._ready = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()


def _selection(paths: str | Iterable[str] | None) -> Callable[[str], bool]:
    """Whether a path is asked for: by a pattern as in the managed globs."""
    if paths is None:
        return lambda path: True  # noqa: ARG005 - everything
    patterns = (paths,) if isinstance(paths, str) else tuple(paths)
    if not patterns:
        return lambda path: True  # noqa: ARG005
    globs = ManagedGlobs(patterns)
    exactly = frozenset(patterns)  # also a name that is made of wildcards
    return lambda path: path in exactly or globs.matches(ArtifactKey(os.fsencode(path)))
