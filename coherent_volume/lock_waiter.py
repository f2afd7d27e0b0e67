"""Waiting for a flock for a bounded time, without losing the place in the kernel's queue.

Owns the thread that waits. It decides nothing: ``locks.FairLock`` asks for the lock.
"""

from __future__ import annotations

import fcntl
import threading
from typing import Any

from coherent_volume.descriptors import dismiss
from coherent_volume.errors import StorageError

__all__ = ["Waiter"]


class Waiter:
    """A thread that waits in flock on behalf of one requester at a time."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        # Reentrant only because such a lock knows its owner; see locks.
        self._state: Any = threading.RLock()
        self._asked = threading.Semaphore(0)
        self._granted = threading.Event()
        self._wanted = False
        self._stopping = False
        self._failure: OSError | None = None
        self.busy = False
        threading.Thread(target=self._run, name="coherent-lock-waiter", daemon=True).start()

    def obtain(self, timeout_s: float) -> bool:
        """Have the lock within *timeout_s*; an abandoned wait keeps its place."""
        try:
            with self._state:
                self._wanted = True
                self._granted.clear()
                if not self.busy:
                    self.busy = True
                    self._asked.release()
            self._granted.wait(timeout_s)
            with self._state:
                if not self._granted.is_set():
                    self._wanted = False
                    return False
                failure, self._failure = self._failure, None
        except BaseException:
            self.withdraw()
            raise
        if failure is not None:
            raise StorageError(
                f"could not lock the volume: {failure.strerror}", step="lock", errno=failure.errno
            ) from failure
        return True

    def withdraw(self) -> None:
        """An interrupt ended the wait, at any line: nobody is there to be given the lock."""
        with self._state:
            if self._granted.is_set():
                self._granted.clear()
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            self._wanted = False
            if self.busy:
                self._asked.release()  # it may have come before that
        while self._state._is_owned():  # or at the end of a block
            self._state.release()

    def is_idle(self) -> bool:
        """Whether no wait is under way, abandoned or not."""
        with self._state:
            return not self.busy

    def stop(self) -> None:
        """End the thread; it closes the descriptor, which frees the lock."""
        with self._state:
            self._stopping = True
            self._wanted = False
        self._asked.release()

    def _run(self) -> None:
        while True:
            self._asked.acquire()
            if self._stopping:
                dismiss(self._descriptor)
                return
            with self._state:
                if not self.busy:
                    continue  # asked twice for one wait
            failure = None
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            except OSError as error:
                failure = error
            with self._state:
                if self._wanted:
                    self._failure = failure
                    self._granted.set()
                elif failure is None:
                    # Before we are idle again: whoever sees that tries the same
                    # descriptor, and would be unlocked by us.
                    fcntl.flock(self._descriptor, fcntl.LOCK_UN)
                self.busy = False
