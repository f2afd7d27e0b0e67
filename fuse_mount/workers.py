"""Workers: the threads that take requests from the device and have them answered.

One of them *leads*: it takes a request, has it answered, and takes the next. Two
threads that serve side by side hinder each other more than they help, because
only one of them can run Python. A request that may take long is answered after
the lead was passed on; if one that looked short takes long (a slow disk, a wait
for the gate), the watch passes the lead on. So no request waits behind another
for longer than two ticks of the watch, as long as there are threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Workers"]

_WORKERS = 6
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

    def run(self) -> None:
        """Serve until ``take`` gives nothing."""
        targets = [self._watch, *(self._work for _ in range(1, _WORKERS))]
        for number, target in enumerate(targets):
            threading.Thread(target=target, name=f"fuse-{number}", daemon=True).start()
        self._work()

    def _work(self) -> None:
        buffer = bytearray(self._room)
        view = memoryview(buffer)
        while not self.ended.is_set():
            self._lead.acquire()
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
        """Pass the lead on from a request that takes long."""
        before = None
        while not self.ended.wait(_TICK_S):
            with self._marking:
                now = self._mark
                if now is not None and now is before:
                    self._mark = now = None
                    self._lead.release()
            before = now
