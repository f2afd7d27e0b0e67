"""Trusting: reads that are answered from a copy without looking at the file.

Owns the copies of a volume object whose read policy trusts them, and the judgement
whether one may be used. Never commits, and never moves the session's view to anything
that was not handed over: what the feed brought before it was asked for waits here,
unseen, until a read takes it.

What makes it sound, with no lock on the way of a read:

* A copy is used only if it is the session's view, so a write derived from it names the
  generation that was handed over, and the gate refuses it if that is not the head (I1).
* ``_heard`` holds the highest generation of each artifact that this volume object made
  or was told of. A copy below that is never used, whichever came first, the signal or
  the copy; and a signal that is not above the copy changes nothing.
* ``_era`` grows when something may have passed unheard: at the first look at the feed,
  after a gap, after a refusal. A copy begun in an older era has to be looked at anew.
* Whatever goes wrong, a copy is trusted for ``Trust.seconds`` after it was looked at, and
  where the feed counts, for as long after the feed was (I9).
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence

from coherent_volume.addresses import Addresses
from coherent_volume.answers import FeedEntry
from coherent_volume.cache import ContentCache, Entry
from coherent_volume.errors import CoherenceError, printable
from coherent_volume.files import Fingerprint
from coherent_volume.listening import Listener
from coherent_volume.model import ArtifactKey
from coherent_volume.parts import VolumeParts
from coherent_volume.paths import PathArgument, shown
from coherent_volume.read_policy import Trust
from coherent_volume.reading import Reading, read, record
from coherent_volume.records import SeenRow
from coherent_volume.views import receive
from coherent_volume.watch import prepare

__all__ = ["TrustedCopies"]

_log = logging.getLogger("coherent_volume")

_NO_CONTENT = frozenset({"lease", "release", "break", "reclaim", "refuse"})
_HEARD_MAX = 100_000
_HITS_MAX = 1_024
"""Of how many reads of a copy the time is kept, to count those that were stale."""
_TRIES_MAX = 9  # the pauses after a hint, which are longer than a file is young
# No file has these: the copy is good while it is trusted, and then it is read again.
_UNPROVABLE = Fingerprint(-1, -1, -1, -1, -1)


class _Copy:
    """The trust in one artifact's content. Changed in place, and only by who looked."""

    __slots__ = ("artifact", "entry", "era", "fetched", "hits", "until", "uses")

    def __init__(self, entry: Entry, artifact: int | None, era: int, until: float) -> None:
        self.entry = entry
        self.artifact = artifact
        self.era = era
        self.until = until
        self.fetched: Reading | None = None
        """What the feed brought and nobody was handed; None for an ordinary copy."""
        self.uses: Iterator[int] = itertools.count()
        self.hits: deque[float] = deque(maxlen=_HITS_MAX)

    @property
    def generation(self) -> int:
        return self.entry.seen.generation


class TrustedCopies(ContentCache):
    """Content in memory that is used without a look, within the bounds of a policy.

    Kept by the artifact's key. The bytes and their bound are the cache's.
    """

    def __init__(self, parts: VolumeParts, addresses: Addresses, trust: Trust) -> None:
        super().__init__(parts.root.descriptor)
        self._parts = parts
        self._addresses = addresses
        self._trust = trust
        self._seen_here = parts.session.seen_here
        self._copies: dict[ArtifactKey, _Copy] = {}
        self._heard: dict[ArtifactKey, int] = {}
        self._era = 0
        self._behind: dict[ArtifactKey, int] = {}
        # Protects ``_heard`` from two who raise it at once, and the starting of the
        # listener. Reads take it only to start that. Reentrant for signal handlers.
        self._telling = threading.RLock()
        self._is_telling = False
        self._listener: Listener | None = None
        self._closed = False
        if trust.listens:
            # Here and not in the listener's thread: see watch.prepare.
            prepare()
        parts.copies = self
        parts.on_close.append(self.close)

    # ── reading ──────────────────────────────────────────────────────────────

    def get(self, path: PathArgument) -> Entry | None:
        """The entry of *path* if it may be used: trusted, or found unchanged by a look."""
        key = self._addresses.admitted(path)
        copy = None if key is None else self._copies.get(key)
        if copy is None or self._seen_here.get(copy.entry.key) is not copy.entry.seen:
            return None
        now = time.monotonic()
        if self._is_trusted(copy, now):
            copy.hits.append(now)
            return copy.entry
        return self._looked_at(copy)

    def _is_trusted(self, copy: _Copy, now: float) -> bool:
        trust = self._trust
        if now >= copy.until or copy.era != self._era:
            return False
        if copy.generation < self._heard.get(copy.entry.key, 0):
            return False
        if trust.listens:
            listener = self._listener
            # Generation 0 has no records, so the feed does not tell of it reliably.
            if listener is None or now >= listener.heard_until + trust.seconds:
                return False
            if copy.generation == 0:
                return False
        # Asked last: it counts. One call in C, so that threads do not use it twice.
        return trust.reads is None or next(copy.uses) < trust.reads

    def _looked_at(self, copy: _Copy) -> Entry | None:
        """The copy's entry if one look finds the file unchanged; it is trusted again then."""
        era, now = self._era, time.monotonic()
        key = copy.entry.key
        if copy.generation < self._heard.get(key, 0):
            return None  # a newer one exists; it may not be visible yet
        entry = super().get(key)
        if entry is None or entry is not copy.entry:
            return None
        copy.hits.clear()
        copy.uses = itertools.count()
        copy.era = era
        copy.until = now + self._trust.seconds
        return entry

    def receive(self, path: PathArgument, key: ArtifactKey) -> tuple[SeenRow, bytes]:
        """The content for a read that no copy could answer; it becomes what was seen."""
        if self._trust.listens and self._listener is None:
            self._listen()
        era, now = self._era, time.monotonic()
        copy = self._copies.get(key)
        fetched = None if copy is None else self._fetched(copy, now)
        if copy is not None and fetched is not None and fetched.data is not None:
            reading, data, era, until = fetched, fetched.data, copy.era, copy.until
            record(self._parts, key, reading)
            self._parts.meters.read_hits += 1
            self._parts.meters.count("prefetch_hits")
            self._parts.meters.count("prefetch_hit_bytes", len(data))
        else:
            reading, data = receive(self._parts, key)
            until = now + self._trust.seconds
            if copy is not None and reading.seen.generation > copy.generation:
                self._count_stale(copy)
        self._keep(path, key, reading, data, era, until)
        return reading.seen, data

    def _fetched(self, copy: _Copy, now: float) -> Reading | None:
        """What the feed brought, if it may be handed over: never less than was seen."""
        fetched = copy.fetched
        view = self._seen_here.get(copy.entry.key)
        if fetched is None or (view is not None and view.generation > fetched.seen.generation):
            return None
        if self._is_trusted(copy, now):
            return fetched
        # A look proves the bytes, and nothing of the ownership: what was brought before a
        # refusal may be of an older epoch, and would be refused again.
        return fetched if copy.era == self._era and self._looked_at(copy) is not None else None

    def _keep(
        self,
        path: PathArgument,
        key: ArtifactKey,
        reading: Reading,
        data: bytes,
        era: int,
        until: float,
    ) -> None:
        # Equal, and then the same object: another thread may have read another
        # generation meanwhile, and a copy must never go under its number.
        seen = self._seen_here.get(key)
        is_kept = seen == reading.seen and key not in self._parts.leased_keys
        if seen is None or not is_kept or not self._addresses.is_direct(path, key):
            self._copies.pop(key, None)
            return
        self._store(key, reading, data, seen, era, until)

    def _store(
        self,
        key: ArtifactKey,
        reading: Reading,
        data: bytes,
        seen: SeenRow,
        era: int,
        until: float,
        *,
        fetched: Reading | None = None,
    ) -> None:
        self.put(key, key, reading.fingerprint or _UNPROVABLE, data, seen)
        entry = self._entries.get(key)
        if entry is None or entry.seen is not seen or entry.data is not data:
            self._copies.pop(key, None)  # too large, or another thread was faster
            return
        copy = _Copy(entry, reading.artifact, era, until)
        copy.fetched = fetched
        self._copies[key] = copy
        if self._entries.get(key) is not entry:
            self._copies.pop(key, None)  # it had to go in between

    def _drop(self, path: PathArgument) -> None:
        super()._drop(path)
        # Everything is kept under its key here.
        self._copies.pop(path, None)  # type: ignore[call-overload]

    # ── what is heard ────────────────────────────────────────────────────────

    def hear(self, key: ArtifactKey, generation: int) -> bool:
        """Use no copy of *key* below *generation* from now on; whether that is news."""
        with self._telling:
            outer, self._is_telling = self._is_telling, True
            try:
                if generation <= self._heard.get(key, 0):
                    return False
                if outer or len(self._heard) >= _HEARD_MAX:
                    # Forgetting what was heard is sound only together with a new era;
                    # and what a signal handler heard in the middle of this may be
                    # written over with an older generation.
                    self._heard.clear()
                    self._era += 1
                self._heard[key] = generation
                return True
            finally:
                self._is_telling = outer

    def doubt(self) -> None:
        """Look at every copy once before it is used again: something passed unheard."""
        with self._telling:
            self._era += 1

    def _take(self, entries: Sequence[FeedEntry]) -> None:
        """What the feed says, called by the listener before it counts as heard."""
        for entry in entries:
            if entry.kind in _NO_CONTENT or entry.generation == 0:
                continue
            key = ArtifactKey(os.fsencode(entry.path))
            is_news = self.hear(key, entry.generation)
            copy = self._copies.get(key)
            if copy is None:
                continue
            if copy.generation >= entry.generation:
                self._parts.meters.count("late_signals")
            elif is_news:
                self._parts.meters.count("signals")
                self._count_stale(copy)
                self._behind[key] = 0

    def _rest(self) -> None:
        """Bring what the feed told of, if the policy is to have it before it is asked for."""
        behind, self._behind = self._behind, {}
        for key, tries in behind.items() if self._trust.fetches else ():
            if not self._closed:
                self._fetch(key, tries)

    def _fetch(self, key: ArtifactKey, tries: int) -> None:
        era, now = self._era, time.monotonic()
        try:
            reading = read(self._parts, key)
        except (CoherenceError, OSError) as error:
            # Whoever reads it is told.
            _log.debug("%s was not fetched: %s", printable(shown(key)), error)
            return
        data, copy = reading.data, self._copies.get(key)
        if data is None or not reading.exists or copy is None or key in self._parts.leased_keys:
            return
        held, found = copy.generation, reading.seen.generation
        if held > found or (held == found and copy.fetched is None):
            return  # a reader was faster
        if reading.fingerprint is None and tries < _TRIES_MAX:
            # Too young for a look to prove anything later: once more after a pause, so
            # that content that is asked for late needs one look and not another reading.
            self._behind[key] = tries + 1
        if held == found and reading.fingerprint is None:
            return
        if held < found:
            self._parts.meters.count("prefetches")
            self._parts.meters.count("prefetched_bytes", len(data))
        until = now + self._trust.seconds
        self._store(key, reading, data, reading.seen, era, until, fetched=reading)

    def _count_stale(self, copy: _Copy) -> None:
        """Count the reads of *copy* since the next generation was made."""
        times: list[float] = []
        with contextlib.suppress(IndexError):
            for _ in range(_HITS_MAX):  # one by one: readers may add meanwhile
                times.append(copy.hits.popleft())
        made = self._made(copy, copy.artifact) if copy.artifact is not None and times else None
        stale = 0 if made is None else sum(each > made for each in times)
        if stale:
            self._parts.meters.count("stale_hits", stale)

    def _made(self, copy: _Copy, artifact: int) -> float | None:
        """When the generation after the copy's was made, on the monotonic clock."""
        with contextlib.suppress(CoherenceError):
            row = self._parts.sidecar.generation(artifact, copy.generation + 1)
            if row is not None:
                return time.monotonic() - (time.time() - row.at / 1e9)
        return None

    # ── life ─────────────────────────────────────────────────────────────────

    def _listen(self) -> None:
        with self._telling:
            if self._listener is None and not self._closed:
                listener = Listener(self._parts, self.doubt, self._take, self._rest)
                # Once more: a signal handler may have come as far meanwhile.
                if self._listener is None:
                    self._listener = listener
                    listener.start()

    def close(self) -> None:
        """End the listening; the volume is being closed."""
        self._closed = True
        listener = self._listener
        if listener is not None:
            listener.close()

    def clear(self) -> None:
        """Forget everything, the listener too: this also mends a forked child."""
        super().clear()
        self._copies = {}
        self._heard = {}
        self._behind = {}
        self._era += 1
        self._telling = threading.RLock()
        self._is_telling = False
        self._listener = None
