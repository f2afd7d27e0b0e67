"""Locks of the operating system, each with its reason.

``FairLock`` is the gate and the turns: raw flock, because it is on the path of
every commit (1.4 µs a pair; portalocker 65, filelock 168) and because the
kernel queues its waiters first come, first served. ``Presence`` proves that a
session's process lives: the kernel drops it with the process, at once, whatever
killed it. ``lifecycle_lock`` keeps two processes from creating or repairing
one volume together.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import threading
import weakref
from collections.abc import Iterator
from typing import Any

from coherent_volume.descriptors import dismiss, no_fork, opened
from coherent_volume.errors import BusyError, StorageError
from coherent_volume.identity import describe_holder_of_lock
from coherent_volume.weak import members

__all__ = ["GATE_WAIT_S", "FairLock", "LeaseHold", "Presence", "is_present", "lifecycle_lock"]

_CLOSE_WAIT_S = 1.0
_blocks = itertools.count(1)
GATE_WAIT_S = 10.0
"""How long a writer waits for the gate before it is told who holds it."""


class FairLock:
    """An exclusive lock between processes, and between this process's threads.

    Waiting is first come, first served in the kernel, and bounded. The lock is
    free at once when its holder dies.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        # Threads pass a shared descriptor's flock, so they queue here first.
        self._mutex = _mutex()
        self._owner = 0
        # Which with-block holds it; see _Held.
        self._block = 0
        self._descriptor = -1
        self._waiter: _Waiter | None = None
        _all_locks.add(self)

    def acquire(self, timeout_s: float, block: int = 0) -> None:
        """Take the lock, or raise BusyError that names the holder."""
        if self._owner == threading.get_ident():
            raise BusyError(
                "this thread holds the lock of this volume already",
                advice="Do not use the volume from a signal handler that interrupts it.",
                holder=f"pid {os.getpid()}",
            )
        try:
            if not self._mutex.acquire(timeout=timeout_s):
                raise BusyError(
                    "another thread of this process holds the lock of this volume",
                    holder=f"pid {os.getpid()}",
                )
            self._owner = threading.get_ident()
            self._block = block
            if self._descriptor < 0:
                self._descriptor = _open(self._path)
            if self._waiter is None or self._waiter.is_idle():
                try:
                    fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    pass
                else:
                    return
            self._wait(timeout_s)
        except BaseException:
            self._let_go()
            raise

    def _let_go(self) -> None:
        """Release whatever this thread holds: an interrupt may come at any line."""
        if not self._mutex._is_owned():
            return
        if self._waiter is not None and not self._waiter.is_idle():
            self._waiter.withdraw()
        elif self._descriptor >= 0:
            self._unlock()
        self._owner = 0
        # More than once if an earlier interrupt left it taken.
        while self._mutex._is_owned():
            self._mutex.release()

    def _unlock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        except OSError:
            # Never told to the caller, whose work is done. Closing the file
            # frees the lock as surely; the next use opens it again.
            if self._waiter is not None:
                self._waiter.stop()
                self._waiter = None
            else:
                dismiss(self._descriptor)
            self._descriptor = -1

    def _wait(self, timeout_s: float) -> None:
        # flock cannot wait for a bounded time, and polling would lose the
        # place in the kernel's queue; so a thread of its own does the waiting.
        if self._waiter is None:
            self._waiter = _Waiter(self._descriptor)
        if not self._waiter.obtain(timeout_s):
            holder = describe_holder_of_lock(self._descriptor)
            raise BusyError(
                f"the volume is held by {holder} for longer than {timeout_s:g} s",
                advice="Nothing was changed. If that process is stopped, continue or end it.",
                holder=holder,
            )

    @property
    def is_mine(self) -> bool:
        """Whether this thread holds it."""
        return self._owner == threading.get_ident()

    def release_block(self, block: int) -> None:
        """Let go of what a with-block held that was left by an interrupt."""
        if self.is_mine and self._block == block:
            self._let_go()

    def release(self) -> None:
        """Give the lock to the next in line; nothing in a child forked meanwhile."""
        self._let_go()

    def held(self, timeout_s: float) -> _Held:
        """Hold the lock during a with-block."""
        return _Held(self, timeout_s)

    def close(self) -> None:
        """Let go of the descriptor; the lock can be used again afterwards.

        A lock that another thread (or the very code that closes) still holds is
        left open: waiting for it here could wait for ourselves.
        """
        if not self._mutex.acquire(timeout=_CLOSE_WAIT_S):
            return
        try:
            if self._waiter is not None:
                self._waiter.stop()
                self._waiter = None
            elif self._descriptor >= 0:
                dismiss(self._descriptor)
            self._descriptor = -1
        finally:
            self._mutex.release()

    def forget_after_fork(self) -> None:
        """Start anew in a forked child."""
        # The child's descriptor is the parent's open file: keeping it would
        # keep a dead parent's lock, so it is closed already (see descriptors).
        # The mutex may be held by a thread that does not exist here, and the
        # waiting thread does not exist either.
        self._descriptor = -1
        self._owner = 0
        self._mutex = _mutex()
        self._waiter = None


def _mutex() -> Any:
    # Reentrant only because such a lock knows its owner, which is what makes
    # it possible to clean up after an interrupt between two lines.
    return threading.RLock()


class _Held:
    """The with-block of a FairLock."""

    # A class and not a generator: an interrupt between the frames of a
    # generator-based manager would leave the lock held for ever. It may come
    # before the first line of __exit__ as well; then the block's end is that of
    # this object, when nobody refers to it any longer.
    __slots__ = ("_block", "_lock", "_timeout_s")

    def __init__(self, lock: FairLock, timeout_s: float) -> None:
        self._lock = lock
        self._timeout_s = timeout_s
        self._block = next(_blocks)

    def __enter__(self) -> None:
        self._lock.acquire(self._timeout_s, self._block)

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __del__(self) -> None:
        self._lock.release_block(self._block)


class _Waiter:
    """A thread that waits in flock on behalf of one requester at a time."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._state = _mutex()
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


_all_locks: weakref.WeakSet[FairLock] = weakref.WeakSet()
_all_holds: weakref.WeakSet[LeaseHold] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for lock in members(_all_locks):
        lock.forget_after_fork()
    for hold in members(_all_holds):
        hold.abandon()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _open(path: str) -> int:
    try:
        return opened(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise StorageError(
            f"could not open the lock file: {error.strerror}", step="lock", errno=error.errno
        ) from error


class Presence:
    """A lock file that says: this process lives. Free when it dies."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        draft = f"{path}.new"
        self._descriptor = opened(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            # Locked before it bears its name: a peer that found it unlocked
            # would take us for dead and clean up what we have staged.
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(self._descriptor, text.encode())
            os.rename(draft, path)
        except BaseException:
            dismiss(self._descriptor)
            raise

    def withdraw(self) -> None:
        """End the presence and remove its file."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        dismiss(self._descriptor)


def is_present(path: str) -> bool:
    """Whether the process behind a presence file lives; in doubt it does.

    Whoever is taken for dead has its stages collected, so only a lock that we
    could take ourselves (or a file that is gone) proves it.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class LeaseHold:
    """A locked file that says: the holder of this lease lives."""

    def __init__(self, path: str) -> None:
        # Imported here: 40 ms, and only those who lease need it.
        import portalocker

        self.name = os.path.basename(path)
        self._path = path
        self._lock = portalocker.Lock(
            path, mode="a", flags=portalocker.LOCK_EX | portalocker.LOCK_NB, timeout=0
        )
        # Entered as itself: its file object would close the number once more.
        with no_fork:
            self._lock.acquire()
            _all_holds.add(self)

    def abandon(self) -> None:
        """Close the inherited lock in a forked child; the parent keeps it."""
        if self._lock.fh is not None:
            self._lock.fh.close()

    def release(self) -> None:
        """End the hold and remove its file."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        with no_fork:
            self._lock.release()
            _all_holds.discard(self)


@contextlib.contextmanager
def lifecycle_lock(path: str, timeout_s: float = GATE_WAIT_S) -> Iterator[None]:
    """Be the only one who creates, migrates or repairs the volume."""
    import filelock

    try:
        with filelock.FileLock(path, timeout=timeout_s):
            yield
    except filelock.Timeout:
        raise BusyError(
            "another process is creating or repairing this volume", holder="another process"
        ) from None
