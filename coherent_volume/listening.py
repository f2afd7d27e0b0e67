"""Listening: a thread that follows the feed on behalf of the copies of one volume object.

Owns the thread and what is known of it: until when the feed was heard. It looks when a
hint comes and every second anyway, so it is correct without any hint. It changes
nothing: who reads decides by ``heard_until`` whether what it told can still be relied
on. A look that fails moves that time on no further; a thread that breaks off takes it
back, and with it all trust.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence

from coherent_volume import feed
from coherent_volume.answers import FeedEntry
from coherent_volume.errors import CoherenceError
from coherent_volume.parts import VolumeParts
from coherent_volume.watching import Pace, hub_of

__all__ = ["Listener"]

_log = logging.getLogger("coherent_volume")

_JOIN_S = 5.0


class Listener:
    """Follows the feed until it is closed. Made for one process; a child makes its own.

    *missed* is called when entries may have passed unheard, at the start too; *take*
    with the entries of each look, before ``heard_until`` moves on; *rest* after that.
    """

    def __init__(
        self,
        parts: VolumeParts,
        missed: Callable[[], None],
        take: Callable[[Sequence[FeedEntry]], None],
        rest: Callable[[], None],
    ) -> None:
        self.heard_until = -math.inf
        """The beginning of the last whole look, on the monotonic clock: all that was
        committed before it has been told."""
        self._parts = parts
        self._missed = missed
        self._take = take
        self._rest = rest
        self._pace = Pace()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="coherent-listener", daemon=True)

    def start(self) -> None:
        """Begin, once; without a thread to be had nothing is ever heard."""
        try:
            self._thread.start()
        except RuntimeError as error:
            _log.warning("the feed cannot be heard, so every read looks: %s", error)

    def _run(self) -> None:
        hub = hub_of(self._parts)
        token: str | None = None
        try:
            # Before the first look: nothing is trusted until hints come.
            hub.join(self)
            while not self._closed:
                self._pace.look_begins()
                token = self._look(token)
                self._rest()
                self._pace.rest(hub.poll_s)
        except Exception as error:  # noqa: BLE001 - whatever it is, reads must know of it
            _log.warning("the feed is heard no more, so every read looks: %r", error)
        finally:
            self.heard_until = -math.inf
            hub.leave(self)

    def _look(self, token: str | None) -> str | None:
        """Hear what happened after *token*; the next one. A failure is made good later."""
        begun = time.monotonic()
        try:
            told = feed.changes(self._parts, token, None)
        except CoherenceError as error:
            _log.debug("the feed was not heard: %s", error)
            return token
        if token is None or not told.complete:
            self._missed()
        self._take(told.entries)
        self.heard_until = begun
        return told.token

    def wake(self) -> None:
        """Look now; called by any thread."""
        self._pace.hint()

    def close(self) -> None:
        """End the thread; by any thread, its own included, more than once."""
        self._closed = True
        self._pace.hint()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(_JOIN_S)

    def abandon(self) -> None:
        """In a forked child: the thread is the parent's."""
        self._closed = True
        self.heard_until = -math.inf
