"""Workers: the threads that take requests from the device and have them answered.

One of them *leads*: it takes a request, has it answered, and takes the next. Two
threads that serve side by side hinder each other more than they help, because
only one of them can run Python. A request that may take long is answered after
the lead was passed on; if one that looked short takes long (a slow disk, a wait
for the gate), the watch passes the lead on. When all threads are at a request
that takes long, so that nobody leads for a tick, the watch starts one more. So no
request waits behind another for longer than three ticks for each thread that is
missing, until there are ``_WORKERS_MAX`` of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Workers"]

_WORKERS = 6
_WORKERS_MAX = 64
_TICK_S = 0.02


class Workers:
    """Threads that serve until there is nothing more to take."""

    def __init__(
        self,
        take: Callable[[bytearray], int],
        answer: Callable[[memoryview], None],
        is_short: Callable[[memoryview], bool],
        room: int,
        ended: threading.Event,
    ) -> None:
        self._take = take
        self._answer = answer
        self._is_short = is_short
        self._room = room
        self.ended = ended
        self._lead = threading.Lock()
        # Guards the mark; safety does not rest on it, but exactly one may lead.
        self._marking = threading.Lock()
        self._mark: object | None = None
        """The short request that the leader is answering."""
        # Under the same lock. How many threads there are beside the first one, how many
        # of all wait for the lead, and how often it was taken.
        self._extra = self._waiting = self._leads = 0

    def run(self) -> None:
        """Serve until ``take`` gives nothing."""
        for _ in range(1, _WORKERS):
            self._start()
        threading.Thread(target=self._watch, name="fuse-watch", daemon=True).start()
        self._work(stays=True)

    def _start(self) -> None:
        self._extra += 1
        name = f"fuse-{self._extra}"
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self, *, stays: bool = False) -> None:
        buffer = bytearray(self._room)
        view = memoryview(buffer)
        while not self.ended.is_set():
            with self._marking:
                if self._waiting >= _WORKERS and not stays:
                    self._extra -= 1
                    return  # it was started when all others were busy
                self._waiting += 1
            self._lead.acquire()
            with self._marking:
                self._waiting -= 1
                self._leads += 1
            while self._serve_one(buffer, view):
                pass

    def _serve_one(self, buffer: bytearray, view: memoryview) -> bool:
        """Take and answer a request; whether this thread still leads."""
        size = 0 if self.ended.is_set() else self._take(buffer)
        if size == 0:
            self.ended.set()
            self._lead.release()
            return False
        message = view[:size]
        if not self._is_short(message):
            self._lead.release()
            self._answer(message)
            return False
        mark = self._mark = object()
        self._answer(message)
        with self._marking:
            leads = self._mark is mark
            self._mark = None if leads else self._mark
        return leads

    def _watch(self) -> None:
        """Pass the lead on from a request that takes long; see that somebody takes it."""
        before, leads = None, 0
        while not self.ended.wait(_TICK_S):
            with self._marking:
                now = self._mark
                if now is not None and now is before:
                    self._mark = now = None
                    self._lead.release()
                is_nobodys = not self._lead.locked() and not self._waiting
                if is_nobodys and leads == self._leads and self._extra + 1 < _WORKERS_MAX:
                    try:
                        self._start()
                    except RuntimeError:  # the system has no room for one more thread
                        self._extra -= 1
                leads = self._leads
            before = now
